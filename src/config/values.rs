//! The types of values that flags, variables and the file share, each with the one way to write it.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use logitd_core::backend::cpu::{Isa, THREADS_MAX};
use logitd_core::backend::cuda::COPY_THREADS_MAX;
use std::fmt;
use std::net::SocketAddr;
use std::num::{IntErrorKind, ParseIntError};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where to listen: `127.0.0.1:50051`, `[::1]:50051`, or `unix:/run/logitd.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Whether only this host can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// As the client takes it: `http://127.0.0.1:50051` (or `https`), or `unix:PATH`.
    pub fn target(&self, tls: bool) -> String {
        match self {
            Self::Tcp(address) => format!("{}://{address}", if tls { "https" } else { "http" }),
            Self::Unix(_) => self.to_string(),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("unix: needs a path, as in unix:/run/logitd.sock".into());
            }
            return Ok(Self::Unix(path.into()));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            "write IP:PORT (127.0.0.1:50051, [::1]:50051), or unix:PATH for a Unix socket".into()
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A count that is at least 1.
pub fn count(text: &str) -> Result<usize, String> {
    let value: usize = digits(text)?;
    if value == 0 { Err("must be at least 1".into()) } else { Ok(value) }
}

/// As [`count`], within 32 bits.
pub fn count32(text: &str) -> Result<u32, String> {
    u32::try_from(count(text)?).map_err(|_| format!("must be at most {}", u32::MAX))
}

/// A whole number within this range.
pub fn number<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + fmt::Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.trim().parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("allowed: {} to {}", range.start(), range.end()))
    }
}

/// Where to listen for people and their tools: an IP address and a port.
pub fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write IP:PORT, as in 127.0.0.1:9091 or [::1]:9091".into())
}

/// Threads of the processor; 0 is one for each core.
pub fn threads(text: &str) -> Result<usize, String> {
    let threads = text.trim().parse().ok().filter(|n| *n <= THREADS_MAX);
    threads.ok_or_else(|| format!("allowed: 0 (one for each core) to {THREADS_MAX}"))
}

/// Threads that copy for a CUDA device; 0 is one for each two cores.
pub fn copy_threads(text: &str) -> Result<usize, String> {
    let threads = text.trim().parse().ok().filter(|n| *n <= COPY_THREADS_MAX);
    threads.ok_or_else(|| {
        format!("allowed: 0 (one for each two cores, up to 8) to {COPY_THREADS_MAX}")
    })
}

/// Permissions of a socket's file, in octal: `600`, `0660`. Its owner must be able to connect.
pub fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.trim(), 8) {
        Ok(mode @ 0..=0o777) if mode & 0o600 == 0o600 => Ok(mode),
        _ => Err("write octal permissions that let the owner connect: 0600, 0660, 0666".into()),
    }
}

/// A number of bytes: `1048576`, `64KiB`, `16MiB`, `2GiB`; at least 1.
pub fn bytes(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let (number, shift) = match text {
        _ if text.ends_with("KiB") => (&text[..text.len() - 3], 10),
        _ if text.ends_with("MiB") => (&text[..text.len() - 3], 20),
        _ if text.ends_with("GiB") => (&text[..text.len() - 3], 30),
        _ => (text, 0),
    };
    let number = count(number)
        .map_err(|error| format!("{error} (write bytes, or a number with KiB, MiB or GiB)"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "is more than this machine can address".into())
}

/// A number of bytes, or 0 for none.
pub fn bytes_or_none(text: &str) -> Result<usize, String> {
    if matches!(text.trim(), "0" | "0KiB" | "0MiB" | "0GiB") { Ok(0) } else { bytes(text) }
}

/// A span of time: `250us`, `20ms`, `1.5s`, `5m`, `1h 30m`, or `0`.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time <= TIME_MAX => Ok(time),
        // Nobody waits for so long, but some write minutes like that.
        Ok(_) => Err("is more than 30 days (m is a minute, and M a month)".into()),
        Err(error) => Err(format!("{error}; write a number with us, ms, s, m or h, as in 30s")),
    }
}

/// Below a month.
const TIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A span of time above 0.
pub fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be above 0".into()),
        timeout => Ok(timeout),
    }
}

/// A share: 0 to 1.
pub fn fraction(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("must be a number from 0 to 1".into()),
    }
}

fn digits(text: &str) -> Result<usize, String> {
    text.trim().parse().map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => format!("must be at most {}", usize::MAX),
        _ => "must be a whole number".into(),
    })
}

/// The name of an instruction set, as a flag takes it.
pub fn isa() -> impl TypedValueParser<Value = Isa> {
    let value = |isa: Isa| PossibleValue::new(isa.name()).help(isa.needs());
    let names = PossibleValuesParser::new(Isa::ALL.map(value));
    names.map(|name| name.parse().expect("one of the possible values"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_written_with_units() {
        assert_eq!(bytes("16MiB"), Ok(16 << 20));
        assert_eq!(bytes("7"), Ok(7));
        assert_eq!(bytes("2 GiB"), Ok(2 << 30));
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("30 s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("30d"), Ok(TIME_MAX));
        for wrong in ["", "16MB", "-1", "0", "99999999999GiB", "1e3"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        for wrong in [
            "",
            "5",
            "s",
            "-1s",
            "1e3s",
            "5x",
            "99999999999999999999s",
            "9999999999999999m",
            "5M",
            "31d",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(timeout("0s").is_err());
    }

    #[test]
    fn space_around_a_number_does_not_matter() {
        assert_eq!(count(" 7\t"), Ok(7));
        assert_eq!(count32(" 7 "), Ok(7));
        assert_eq!(number(1..=9)(" 7 "), Ok(7));
        assert_eq!((threads(" 0 "), copy_threads(" 1\n")), (Ok(0), Ok(1)));
        assert_eq!(mode(" 0600 "), Ok(0o600));
        assert_eq!((bytes(" 2 GiB "), bytes_or_none(" 0 ")), (Ok(2 << 30), Ok(0)));
        assert_eq!(duration(" 5m "), Ok(Duration::from_secs(300)));
        for wrong in ["1 0", " ", ""] {
            assert!(count(wrong).is_err() && number(0..=99)(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn addresses_are_read_as_they_are_shown() {
        for text in ["127.0.0.1:0", "[::1]:50051", "unix:/run/logitd.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert!("localhost".parse::<Address>().is_err());
        assert!("unix:".parse::<Address>().is_err());
        assert!(!"0.0.0.0:1".parse::<Address>().unwrap().is_local());
    }
}
