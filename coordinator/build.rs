//! Tells cargo what is embedded besides source files, and makes the folder of a dashboard that is not built yet.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../migrations");
    println!("cargo:rerun-if-changed=../dashboard/dist");
    // The coordinator compiles without the dashboard and then says how to build it.
    let dist = Path::new("../dashboard/dist");
    if !dist.exists() {
        let _ = std::fs::create_dir_all(dist);
    }
}
