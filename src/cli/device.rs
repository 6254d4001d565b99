//! `--device` and `--precision`.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Real};

/// Where to compute, and how numbers are stored there.
#[derive(clap::Args)]
pub struct Choice {
    /// Where to compute: auto (a GPU where there is one), cpu, cuda or cuda:1
    #[arg(long, default_value = "auto")]
    device: Device,
    /// How a GPU stores activations; sums and master weights are always f32
    #[arg(long, default_value = "bf16")]
    precision: Precision,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A GPU where there is one.
    Auto,
    /// All cores.
    Cpu,
    /// The NVIDIA GPU of that number.
    Cuda(usize),
}

/// How a GPU stores activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// 2 bytes.
    Bf16,
    /// 4 bytes, as the CPU has them: for checks.
    F32,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Device, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Device::Auto),
            None if text == "cpu" => Ok(Device::Cpu),
            None if text == "cuda" => Ok(Device::Cuda(0)),
            Some(("cuda", number)) => {
                number.parse().map(Device::Cuda).map_err(|_| format!("{number:?} is not the number of a GPU"))
            }
            _ => Err("give auto, cpu, cuda or cuda:NUMBER".into()),
        }
    }
}

impl From<Precision> for Real {
    fn from(precision: Precision) -> Real {
        match precision {
            Precision::Bf16 => Real::Bf16,
            Precision::F32 => Real::F32,
        }
    }
}

impl Choice {
    /// The GPU, or `None` for the CPU. `auto` says on stderr why there is no GPU; `cuda` fails with the reason.
    pub fn open(&self) -> Result<Option<Gpu>> {
        let real = self.precision.into();
        match self.device {
            Device::Cpu => Ok(None),
            Device::Cuda(index) => Gpu::open(index, real).map(Some),
            Device::Auto => match Gpu::open(0, real) {
                Ok(gpu) => Ok(Some(gpu)),
                Err(Error::Device(why)) => {
                    eprintln!("note: computing on the CPU: {why}");
                    Ok(None)
                }
                Err(other) => Err(other),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_users_name_them() {
        assert_eq!("auto".parse(), Ok(Device::Auto));
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(Device::Cuda(3)));
        for wrong in ["gpu", "cuda:", "cuda:x", "cpu:1", ""] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
    }
}
