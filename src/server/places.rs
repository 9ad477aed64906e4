//! Places for connections: how many there are, and how many of them one address, or all of TCP, can take.
//!
//! Whoever reaches a TCP port can hold connections, and an idle one costs its holder nothing. So one address gets a
//! share, and where the server listens on Unix sockets too some places are theirs: a stranger on the network does not
//! shut out the processes of this host.

use super::metrics;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One in so many places is kept for Unix sockets, where there is one.
const UNIX_SHARE: usize = 8;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From this address.
    Tcp(IpAddr),
    /// From this host.
    Unix,
}

impl Origin {
    /// The name used by metrics.
    fn transport(self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Unix => "unix",
        }
    }
}

/// The places of a server.
#[derive(Debug)]
pub struct Places {
    max: usize,
    tcp_max: usize,
    per_address_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    unix: usize,
    tcp: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All are taken.
    All,
    /// All that TCP may have are.
    Tcp,
    /// All that this address may have are.
    Address,
}

impl Full {
    /// For the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::All => "--connections-max are open",
            Self::Tcp => "all of --connections-max are open but those kept for Unix sockets",
            Self::Address => "its address has --connections-per-address-max open",
        }
    }
}

impl Places {
    /// `max` places, of which one address has `per_address_max` at most, and TCP not all if there are Unix sockets.
    pub fn new(max: usize, per_address_max: usize, unix: bool) -> Self {
        let kept = if unix { max / UNIX_SHARE } else { 0 };
        Self { max, tcp_max: max - kept, per_address_max, taken: Mutex::default() }
    }

    /// A place, until it is dropped.
    pub fn take(self: &Arc<Self>, origin: Origin) -> Result<Place, Full> {
        let origin = match origin {
            Origin::Tcp(address) => Origin::Tcp(share_of(address)),
            Origin::Unix => Origin::Unix,
        };
        let mut taken = self.lock();
        if taken.unix + taken.tcp >= self.max {
            return Err(Full::All);
        }
        match origin {
            Origin::Unix => taken.unix += 1,
            Origin::Tcp(_) if taken.tcp >= self.tcp_max => return Err(Full::Tcp),
            Origin::Tcp(address) => {
                let of_address = taken.by_address.entry(address).or_default();
                if *of_address >= self.per_address_max {
                    return Err(Full::Address);
                }
                *of_address += 1;
                taken.tcp += 1;
            }
        }
        metrics::connection_opened(origin.transport());
        Ok(Place { places: Arc::clone(self), origin })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose share an address counts in. Whoever has one IPv6 address usually has 2^64 of them.
fn share_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 => v4,
    }
}

/// A place that is taken.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    origin: Origin,
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::connection_closed(self.origin.transport());
        let mut taken = self.places.lock();
        match self.origin {
            Origin::Unix => taken.unix -= 1,
            Origin::Tcp(address) => {
                taken.tcp -= 1;
                if let Some(of_address) = taken.by_address.get_mut(&address) {
                    *of_address -= 1;
                    if *of_address == 0 {
                        taken.by_address.remove(&address);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> Origin {
        Origin::Tcp(address.parse().unwrap())
    }

    #[test]
    fn nobody_can_take_what_is_kept_for_others() {
        let places = Arc::new(Places::new(16, 10, true));
        let take = |address, n: usize| -> Vec<_> {
            (0..n).map(|_| places.take(tcp(address)).unwrap()).collect()
        };
        let refused = |origin| places.take(origin).unwrap_err();
        let mut held = take("10.0.0.1", 10);
        assert_eq!(refused(tcp("10.0.0.1")), Full::Address);
        held.extend(take("10.0.0.2", 4));
        assert_eq!(refused(tcp("10.0.0.3")), Full::Tcp);
        held.extend([Origin::Unix; 2].map(|unix| places.take(unix).unwrap()));
        assert_eq!(refused(Origin::Unix), Full::All);
        drop(held);
        assert!(places.lock().by_address.is_empty(), "nothing is remembered of who has gone");
        assert_eq!(take("10.0.0.1", 10).len(), 10);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_a_mapped_address_is_what_it_maps() {
        let places = Arc::new(Places::new(16, 1, false));
        let _held = ["2001:db8::1", "2001:db8:0:1::1", "10.0.0.1"].map(|a| places.take(tcp(a)));
        for same in ["2001:db8::ffff:1", "2001:db8:0:1:2::", "::ffff:10.0.0.1"] {
            assert_eq!(places.take(tcp(same)).unwrap_err(), Full::Address, "{same}");
        }
    }
}
