//! Compiles the CUDA kernels, if the feature `cuda` asks for them.
//!
//! Each `src/cuda/kernels/*.cu` becomes one fat binary (machine code for the generations we know, and an intermediate form for
//! later ones) that the crate includes. Only the compiler is needed for it: no driver, no device, no CUDA library.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const KERNELS: &str = "src/cuda/kernels";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for variable in ["NVCC", "CUDA_HOME", "PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names the output folder"));
    let nvcc = nvcc();
    let mut files: Vec<PathBuf> = std::fs::read_dir(KERNELS)
        .expect("the kernels' folder is part of the crate")
        .map(|entry| entry.expect("the kernels' folder can be read").path())
        .collect();
    files.sort();
    for file in files {
        println!("cargo::rerun-if-changed={}", file.display());
        if file.extension().is_some_and(|extension| extension == "cu") {
            compile(&nvcc, &file, &out);
        }
    }
}

/// The compiler: `$NVCC`, else the one in the path, else the one of `$CUDA_HOME`.
fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin"));
    let found = env::split_paths(&path).chain(home).map(|folder| folder.join("nvcc"));
    found.into_iter().find(|nvcc| nvcc.is_file()).unwrap_or_else(|| {
        panic!(
            "the feature `cuda` needs nvcc of CUDA 12.8 or newer: install the CUDA toolkit (or the Python packages nvidia-cuda-nvcc, \
             nvidia-cuda-crt, nvidia-nvvm, nvidia-cuda-cccl and nvidia-cuda-runtime of version 13.0) and name the compiler by \
             NVCC=/path/to/nvcc, the PATH or CUDA_HOME"
        )
    })
}

fn compile(nvcc: &Path, file: &Path, out: &Path) {
    let target = out
        .join(file.file_name().expect("a source has a name"))
        .with_extension("fatbin");
    let mut command = Command::new(nvcc);
    command
        .args(["-O3", "-std=c++17", "--fmad=true", "--threads", "2", "-fatbin"])
        .args(["-gencode", "arch=compute_80,code=sm_80"])
        .args(["-gencode", "arch=compute_90,code=[sm_90,compute_90]"])
        .arg("-o")
        .arg(&target)
        .arg(file);
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", nvcc.display()));
    assert!(
        output.status.success(),
        "{} fails on {}:\n{}{}",
        nvcc.display(),
        file.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        println!("cargo::warning={}: {line}", file.display());
    }
}
