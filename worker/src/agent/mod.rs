//! The agent of a node: the one process on it that talks to the coordinator, and that starts and supervises its ranks.
//!
//! [`core`] decides and knows no IO; [`shell`] carries out what it decides, with [`calls`] to the coordinator and
//! processes of [`supervise`](crate::supervise), and a `door` at which other agents knock. What the ranks compute on is found
//! before (`equipment`); [`gpu`] finds and reads GPUs.

pub mod calls;
pub mod core;
mod door;
mod equipment;
pub mod gpu;
pub mod shell;

use crate::rank::{self, memory};
use anyhow::{Context, bail};
use calls::Coordinators;
use equipment::{Equipment, Surroundings};
use gpu::claim::Claim;
use medley_model::device::gpu_numerics_of;
use medley_protocol::agent::Register;
use medley_protocol::hardware::{Gpu, Hardware};
use medley_protocol::ids::IncarnationId;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Arguments of `medley-worker agent`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// URL of the coordinator, such as http://127.0.0.1:7700; several, which share a database, with commas between them
    #[arg(
        long,
        env = "MEDLEY_URL",
        value_name = "URL",
        value_delimiter = ',',
        required = true,
        value_parser = coordinator_url
    )]
    coordinator: Vec<String>,
    /// File that holds the coordinator's token for nodes
    #[arg(long, env = "MEDLEY_TOKEN_FILE", value_name = "FILE")]
    token_file: PathBuf,
    /// Name of this node: small letters, digits and dashes, unique in the cluster, the same at each start
    #[arg(long, env = "MEDLEY_NODE_NAME", value_parser = node_name)]
    name: String,
    /// Host name or address under which other nodes reach this node's ranks
    #[arg(long, env = "MEDLEY_HOST", default_value = "127.0.0.1")]
    host: String,
    #[command(flatten)]
    equipment: equipment::Args,
    /// Threads of each rank
    #[arg(long, env = "MEDLEY_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Folder for the logs of ranks, one file per device; without it they go where the agent's log goes
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// Seconds that ranks have to leave their stages by plan after SIGTERM, so that no step is computed twice; 0 ends them at
    /// once
    #[arg(
        long,
        env = "MEDLEY_GRACE_S",
        value_name = "SECONDS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(0..=86400)
    )]
    grace: u32,
}

/// Runs the agent until it is told to leave (SIGTERM) or to stop (SIGINT, or SIGTERM again), or the coordinator refuses it for
/// good.
///
/// # Errors
/// When a setting is wrong, the token is refused, or another agent of the same name has taken over.
pub fn run(args: Args) -> anyhow::Result<()> {
    let token = read_token(&args.token_file)?;
    let Equipment {
        devices,
        gpus,
        numerics,
        source,
    } = equip(&args.equipment)?;
    // Whoever names the one device of all ranks wants it shared.
    let is_shared = std::env::var_os(rank::DEVICE).is_some();
    let claim = if is_shared {
        Ok(Claim::default())
    } else {
        Claim::of(&gpus)
    };
    let _claim = claim.map_err(anyhow::Error::msg)?;
    let fingerprint = rank::node_fingerprint(numerics.as_deref()).context("cannot read this program's own file")?;
    let settings = shell::Settings {
        coordinators: Coordinators::new(&args.coordinator, &token),
        register: Register {
            name: args.name,
            incarnation: IncarnationId::generate(),
            host: args.host,
            devices,
            threads: args.threads,
            fingerprint,
        },
        hardware: Hardware {
            memory_bytes: memory::machine_bytes(),
            gpus,
        },
        source,
        program: std::env::current_exe().context("cannot find this program's own file, which runs the ranks")?,
        log_dir: args.log_dir,
        grace: Duration::from_secs(args.grace.into()),
    };
    if let Some(dir) = &settings.log_dir {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("cannot make the folder {} of --log-dir", dir.display()))?;
    }
    tracing::info!(
        name = settings.register.name,
        devices,
        gpus = describe(&settings.hardware.gpus),
        coordinator = args.coordinator.join(" or "),
        "agent starts"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        // Each of the two hears every signal.
        let (mut first, mut second) = (signal(SignalKind::terminate())?, signal(SignalKind::terminate())?);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let leave = async move {
            first.recv().await;
        };
        let again = async move {
            second.recv().await;
            second.recv().await
        };
        let stop = async {
            tokio::select! {
                _ = again => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok(shell::serve(settings, leave, stop).await?)
    });
    // Requests that still wait for a name to be resolved must not keep the process.
    runtime.shutdown_background();
    result
}

/// Finds what the ranks are to compute on, and whether they can.
fn equip(args: &equipment::Args) -> anyhow::Result<Equipment> {
    let variable = |name| std::env::var(name).ok();
    let (device, visible) = (variable(rank::DEVICE), variable("CUDA_VISIBLE_DEVICES"));
    let around = Surroundings {
        device: device.as_deref(),
        visible: visible.as_deref(),
        numerics: |uuid| gpu_numerics_of(uuid).map_err(|error| error.to_string()),
    };
    Equipment::find(args, around, gpu::source).map_err(anyhow::Error::msg)
}

/// GPUs, for people.
fn describe(gpus: &[Gpu]) -> String {
    let uuids: Vec<&str> = gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
    uuids.join(", ")
}

/// Reads a token file: one line of visible characters.
fn read_token(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the token from --token-file {}", path.display()))?;
    let token = text.trim();
    if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) {
        bail!("--token-file {} must hold one token on one line", path.display());
    }
    Ok(token.to_owned())
}

fn coordinator_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).map_err(|e| format!("{e}; give a URL such as http://127.0.0.1:7700"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(text.to_owned()),
        _ => Err("must begin with http:// or https:// and name a host".into()),
    }
}

fn node_name(text: &str) -> Result<String, String> {
    let harmless = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=63).contains(&text.len()) && text.chars().all(harmless) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 63 small letters, digits or dashes".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(more: &[&str]) -> Result<Args, String> {
        let line = [
            "agent",
            "--token-file",
            "/none/token",
            "--coordinator",
            "http://h:1",
            "--name",
            "n1",
        ];
        let line = line.into_iter().chain(more.iter().copied());
        Cli::try_parse_from(line).map(|cli| cli.args).map_err(|e| e.to_string())
    }

    #[test]
    fn a_missing_token_file_names_the_flag_and_the_file() {
        let error = format!("{:#}", run(parse(&[]).unwrap()).unwrap_err());
        assert!(error.contains("--token-file /none/token"), "{error}");
    }

    #[test]
    fn a_token_is_one_line_of_visible_characters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_token(&path)
        };
        assert_eq!(read("medley_node_x\n").unwrap(), "medley_node_x");
        for bad in ["", "\n", "two words", "one\ntwo", "umläut"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn several_coordinators_are_given_with_commas_or_one_by_one() {
        let parsed = parse(&["--coordinator", "http://a:1,https://b:2"]).unwrap();
        assert_eq!(parsed.coordinator, ["http://h:1", "http://a:1", "https://b:2"]);
    }

    #[test]
    fn wrong_arguments_are_refused_with_what_is_expected() {
        let wrong = [
            ("--devices", "0", "from 1 to 64"),
            ("--ranks-per-gpu", "0", "1..=16"),
            ("--gpus", "1,all", "nvidia-smi"),
            ("--threads", "0", "1..=1024"),
            ("--grace", "86401", "0..=86400"),
        ];
        for (flag, value, expected) in wrong {
            let error = parse(&[flag, value]).unwrap_err();
            assert!(error.contains(flag) && error.contains(expected), "{error}");
        }
        let error = parse(&["--coordinator", "http://a:1,b:2"]).unwrap_err();
        assert!(error.contains("--coordinator") && error.contains("'b:2'"), "{error}");
        assert!(coordinator_url("127.0.0.1:7700").is_err());
        assert!(coordinator_url("ftp://h").is_err());
        for bad in ["", "Node", "a b", "a.b"] {
            assert!(node_name(bad).is_err(), "{bad:?}");
        }
    }
}
