//! Makes what `cust` links against where there is no driver: an empty library under the name of the driver's.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let source = "cuda/lib64/libcuda.c";
    println!("cargo:rerun-if-changed={source}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let made = Command::new("cc")
        .args(["-shared", "-Wl,-soname,libcuda.so.1", source, "-o"])
        .arg(out.join("libcuda.so"))
        .status();
    assert!(made.is_ok_and(|status| status.success()), "cc makes no shared library of {source}");
    println!("cargo:rustc-link-search=native={}", out.display());
    // It defines none of the symbols, so the linker would neither accept them as missing nor keep the library.
    for word in ["--unresolved-symbols=ignore-all", "--no-as-needed", "-lcuda"] {
        let word = if word.starts_with("--") { format!("-Wl,{word}") } else { word.into() };
        println!("cargo:rustc-link-arg={word}");
    }
}
