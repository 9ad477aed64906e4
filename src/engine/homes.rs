//! Rows in the memory of a device: the device reads them where they lie, another would have them copied through
//! the host. So they wait for it, as long as it takes work.

/// How many rows wait for each device alone.
#[derive(Debug, Default)]
pub(super) struct Homes {
    devices: Vec<Home>,
}

#[derive(Clone, Debug, Default)]
struct Home {
    rows: usize,
    is_closed: bool,
}

impl Homes {
    /// Counts rows in.
    pub fn add(&mut self, home: Option<usize>, rows: usize) {
        if let Some(device) = home {
            self.of(device).rows += rows;
        }
    }

    /// Counts rows out.
    pub fn remove(&mut self, home: Option<usize>, rows: usize) {
        if let Some(device) = home {
            self.of(device).rows -= rows;
        }
    }

    /// From now on, every device takes what lies on this one.
    pub fn close(&mut self, device: usize) {
        self.of(device).is_closed = true;
    }

    /// Whether a device takes rows that are at home there.
    pub fn takes(&self, device: usize, home: Option<usize>) -> bool {
        home.is_none_or(|home| {
            home == device || self.devices.get(home).is_some_and(|home| home.is_closed)
        })
    }

    /// How many rows a device leaves to others.
    pub fn left_to_others(&self, device: usize) -> usize {
        let others = self.devices.iter().enumerate().filter(|&(other, _)| other != device);
        others.map(|(_, home)| home).filter(|home| !home.is_closed).map(|home| home.rows).sum()
    }

    /// Whether any row waits for one device alone.
    pub fn any(&self) -> bool {
        self.devices.iter().any(|home| home.rows > 0 && !home.is_closed)
    }

    fn of(&mut self, device: usize) -> &mut Home {
        if self.devices.len() <= device {
            self.devices.resize(device + 1, Home::default());
        }
        &mut self.devices[device]
    }
}
