//! What computes, as `--device` names it.

use std::fmt;
use std::str::FromStr;

/// What computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CUDA devices if there are any that work, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// The slow oracle that everything else is checked against.
    Reference,
    /// The CUDA devices with these numbers; none named: all there are.
    Cuda(Vec<u32>),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "reference" => Self::Reference,
            "cuda" => Self::Cuda(Vec::new()),
            _ => Self::Cuda(cuda_devices(name)?),
        })
    }
}

/// `cuda:0,2`, or `cuda:0,cuda:2`.
fn cuda_devices(name: &str) -> Result<Vec<u32>, String> {
    let wrong =
        || "there are: auto, cpu, cuda, cuda:0 (or cuda:0,1 and so on), reference".to_owned();
    let numbers = name.strip_prefix("cuda:").ok_or_else(wrong)?;
    let mut devices = Vec::new();
    for number in numbers.split(',') {
        let number = number.strip_prefix("cuda:").unwrap_or(number);
        let device = number.parse().map_err(|_| wrong())?;
        if devices.contains(&device) {
            return Err(format!("cuda:{device} is named twice"));
        }
        devices.push(device);
    }
    Ok(devices)
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Reference => f.write_str("reference"),
            Self::Cuda(devices) if devices.is_empty() => f.write_str("cuda"),
            Self::Cuda(devices) => {
                let devices: Vec<String> = devices.iter().map(u32::to_string).collect();
                write!(f, "cuda:{}", devices.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_shown() {
        for name in ["auto", "cpu", "reference", "cuda", "cuda:0", "cuda:3,1"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        let both = "cuda:0,cuda:1".parse::<DeviceChoice>();
        assert_eq!(both, Ok(DeviceChoice::Cuda(vec![0, 1])));
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:0,", "cuda0", "cpu:0"] {
            assert!(name.parse::<DeviceChoice>().unwrap_err().contains("cuda:0,1"), "{name}");
        }
        assert!("cuda:1,1".parse::<DeviceChoice>().unwrap_err().contains("twice"));
    }
}
