//! What a launch and a copy cost through `cust` 0.3 and through `cudarc` 0.19, the same kernels on the same GPU.
//!
//!   cd benches/cust-peer && cargo run --release --locked            a line of JSON for each library and measure, A B A B
//!
//! `cust` wants a CUDA installation to build and libcuda.so.1 to start. The first is met by .cargo/config.toml, which shows it an
//! empty folder, so cargo must be called in this folder; build.rs makes the library that it links against, with cc. So this builds
//! on a machine without CUDA and starts only on one with a driver: why the engine, which starts everywhere, uses cudarc.
//!
//! Measures: `launch_ns`, host time of one launch of an empty kernel in a queue that never fills (the median of 100 times 500);
//! `launch_and_wait_ns`, one launch and a wait; `kernel_copy_gb_per_s` and `memcpy_gb_per_s`, 1 GiB within the device by a kernel
//! and by the driver, bytes read and written, by events.

use std::error::Error;
use std::time::Instant;

mod through_cudarc;
mod through_cust;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// `nothing()`, and `copy(to, from, packs)`: 16 bytes a thread.
const PTX: &str = include_str!("kernels.ptx");
/// Bytes that are copied.
const BYTES: usize = 1 << 30;
const PACK: usize = 16;
const THREADS: u32 = 256;
const BLOCKS: u32 = (BYTES / PACK / THREADS as usize) as u32;
/// Launches queued at once: fewer than the driver's queue holds.
const QUEUED: usize = 500;
const TURNS: usize = 100;

/// What is measured of a library.
trait Library {
    fn name(&self) -> &'static str;
    fn launch(&self) -> Outcome<()>;
    fn wait(&self) -> Outcome<()>;
    /// Milliseconds between two events around a copy by a kernel.
    fn kernel_copy(&mut self) -> Outcome<f32>;
    /// The same by the driver.
    fn memcpy(&mut self) -> Outcome<f32>;
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

fn print(library: &dyn Library, measure: &str, value: f64) {
    println!(r#"{{"library": "{}", "measure": "{measure}", "median": {value:.3}}}"#, library.name());
}

fn launches(library: &dyn Library) -> Outcome<()> {
    let (mut queued, mut waited) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        library.wait()?;
        let began = Instant::now();
        for _ in 0..QUEUED {
            library.launch()?;
        }
        queued.push(began.elapsed().as_secs_f64() * 1e9 / QUEUED as f64);
        library.wait()?;
        let began = Instant::now();
        library.launch()?;
        library.wait()?;
        waited.push(began.elapsed().as_secs_f64() * 1e9);
    }
    print(library, "launch_ns", median(queued));
    print(library, "launch_and_wait_ns", median(waited));
    Ok(())
}

fn copies(library: &mut dyn Library) -> Outcome<()> {
    let (mut kernel, mut driver) = (Vec::new(), Vec::new());
    let speed = |ms: f32| 2.0 * BYTES as f64 / f64::from(ms) / 1e6;
    for turn in 0..TURNS + 3 {
        let found = [library.kernel_copy()?, library.memcpy()?].map(speed);
        if turn >= 3 {
            kernel.push(found[0]);
            driver.push(found[1]);
        }
    }
    print(library, "kernel_copy_gb_per_s", median(kernel));
    print(library, "memcpy_gb_per_s", median(driver));
    Ok(())
}

fn main() -> Outcome<()> {
    // Both retain the device's primary context, so neither has one to itself.
    let mut libraries: [Box<dyn Library>; 2] =
        [Box::new(through_cust::Cust::open()?), Box::new(through_cudarc::Cudarc::open()?)];
    for _ in 0..2 {
        for library in &mut libraries {
            launches(&**library)?;
            copies(&mut **library)?;
        }
    }
    Ok(())
}
