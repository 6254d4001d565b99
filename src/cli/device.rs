//! `--device` and `--precision`.

use std::str::FromStr;

use super::words;
use crate::collective::Launch;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Real};
use crate::train::Place;

/// Where to compute, and how numbers are stored there.
#[derive(Debug, clap::Args)]
pub struct Choice {
    /// Where to compute: auto (a GPU if there is one), cpu, cuda or cuda:NUMBER
    #[arg(long, default_value = "auto")]
    device: Device,
    /// How a GPU stores activations; sums and master weights are always f32
    #[arg(long, default_value = "bf16")]
    pub precision: Real,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A GPU if there is one.
    Auto,
    /// All cores.
    Cpu,
    /// The NVIDIA GPU with this number; without one the first or, of several processes, each its own.
    Cuda(Option<usize>),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Device, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Device::Auto),
            None if text == "cpu" => Ok(Device::Cpu),
            None if text == "cuda" => Ok(Device::Cuda(None)),
            Some(("cuda", number)) => {
                let index = number.parse().map_err(|_| format!("{number:?} is not a GPU number"))?;
                Ok(Device::Cuda(Some(index)))
            }
            _ => Err("expected auto, cpu, cuda or cuda:NUMBER".into()),
        }
    }
}

impl Choice {
    /// The GPU, or `None` for the CPU. `auto` says on stderr why there is no GPU; `cuda` fails with the reason.
    pub fn open(&self) -> Result<Option<Gpu>> {
        let real = self.precision;
        match self.device {
            Device::Cpu => Ok(None),
            Device::Cuda(index) => Gpu::open(index.unwrap_or(0), real).map(Some),
            Device::Auto => match Gpu::open(0, real) {
                Ok(gpu) => Ok(Some(gpu)),
                Err(Error::Device(why)) => {
                    words::note(format_args!("computing on the CPU: {why}"));
                    Ok(None)
                }
                Err(other) => Err(other),
            },
        }
    }
}

/// How many GPUs of this machine to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gpus {
    /// All of them.
    All,
    /// The first N.
    First(usize),
}

impl FromStr for Gpus {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Gpus, String> {
        match text.parse() {
            Ok(count) if count > 0 => Ok(Gpus::First(count)),
            _ if text == "all" => Ok(Gpus::All),
            _ => Err("expected a number of GPUs, or all".into()),
        }
    }
}

impl Choice {
    /// Where a run's ranks compute: in one place, on the first GPUs, or, for a launcher's process, on the GPU of its number on this
    /// machine.
    pub fn place(&self, gpus: Option<Gpus>, launch: Option<Launch>) -> Result<Place> {
        let real = self.precision;
        match (gpus, launch) {
            (Some(_), _) if self.device == Device::Cpu => {
                Err(Error::setting("--gpus", "cannot be used with --device cpu"))
            }
            (Some(_), Some(launch)) => {
                let what = format!("{} already starts one process per GPU; omit this option", launch.by);
                Err(Error::setting("--gpus", what))
            }
            (Some(gpus), None) => {
                let count = match gpus {
                    Gpus::All => Gpu::count().max(1), // opening the first says why there is none
                    Gpus::First(count) => count,
                };
                let gpus = (0..count).map(|index| Gpu::open(index, real).map(Some));
                gpus.collect::<Result<_>>().map(Place::Here)
            }
            (None, Some(launch)) => {
                let gpu = self.open_for(launch.local)?;
                Ok(Place::Launched(launch, gpu))
            }
            (None, None) => Ok(Place::Here(vec![self.open()?])),
        }
    }

    /// The GPU for a launcher's process with this number on its machine, or `None` for the CPU.
    fn open_for(&self, local: usize) -> Result<Option<Gpu>> {
        match self.device {
            Device::Auto | Device::Cuda(None) if Gpu::count() > 0 => {
                Gpu::open(own(local, Gpu::count()), self.precision).map(Some)
            }
            Device::Cuda(Some(_)) if local > 0 && Gpu::count() > 1 => {
                let what = "gives all processes of a machine the same GPU; omit it, and each uses its own";
                Err(Error::setting("--device", what))
            }
            _ => self.open(),
        }
    }
}

/// The GPU for a launcher's process with this number on its machine. A launcher may show each process only GPUs of its own, so a
/// number beyond those that are visible is no error, but may also mean that there are too many processes.
fn own(local: usize, visible: usize) -> usize {
    let index = local % visible;
    if local >= visible && visible > 1 {
        words::note(format_args!(
            "process {local} of this machine sees {visible} GPUs and uses number {index}; if other processes see the same \
             GPUs, start one process per GPU"
        ));
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_of_a_machine_takes_a_gpu_that_it_sees() {
        assert_eq!([own(0, 1), own(5, 1), own(3, 4), own(5, 4)], [0, 0, 3, 1]);
    }

    #[test]
    fn devices_are_named_as_users_name_them() {
        assert_eq!("auto".parse(), Ok(Device::Auto));
        assert_eq!("cuda".parse(), Ok(Device::Cuda(None)));
        assert_eq!(
            ("cuda:0".parse(), "cuda:3".parse()),
            (Ok(Device::Cuda(Some(0))), Ok(Device::Cuda(Some(3))))
        );
        for wrong in ["gpu", "cuda:", "cuda:x", "cpu:1", ""] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
        assert_eq!(("all".parse(), "4".parse()), (Ok(Gpus::All), Ok(Gpus::First(4))));
        for wrong in ["0", "-1", "some", ""] {
            assert!(wrong.parse::<Gpus>().is_err(), "{wrong}");
        }
    }
}
