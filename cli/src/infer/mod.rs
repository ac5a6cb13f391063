//! `medley caption` and `medley match`: trained models on single images.
//!
//! The command finds the weights ([`find`]), brings them here if a coordinator has them ([`cache`]), and has `medley-worker
//! infer` do the work ([`worker`]): the model is no part of this program.

mod cache;
pub(crate) mod caption;
mod find;
pub(crate) mod matching;
mod worker;

use crate::connect::Connection;
use crate::console::Screen;
use anyhow::{Context as _, Result, bail};
use cache::Cache;
use find::Found;
use medley_protocol::client::Client;
use medley_protocol::inference::{Answer, Request, Weights, Work};
use std::path::{Path, PathBuf};

/// Which model is used, as given by the user.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Model {
    /// The model: a file or folder of weights on this machine, or the id of a checkpoint, or a job's id or name
    /// [default: the newest suitable checkpoint].
    #[arg(long, value_name = "REF", help_heading = "Model")]
    checkpoint: Option<String>,
    /// Folder that keeps what was fetched from a coordinator; it can be removed at any time [default: ~/.cache/medley].
    #[arg(long, value_name = "DIR", env = "MEDLEY_CACHE", help_heading = "Model")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

impl Model {
    /// Has the work done by `program`, a `medley-worker`. `hear` is given every answer as it comes, unreadable images aside: they
    /// are told on the screen, and are an error in the end.
    async fn work(
        &self,
        program: &Path,
        work: Work,
        screen: &Screen,
        mut hear: impl FnMut(Answer) -> Result<()>,
    ) -> Result<()> {
        let weights = self.weights(&work, screen).await?;
        let (mut all, mut unreadable) = (0, 0);
        let request = Request { weights, work };
        worker::run(program, &request, screen, |answer| {
            all += 1;
            if let Answer::Unreadable { image, reason } = answer {
                unreadable += 1;
                screen.line(&format!("image {image}: {reason}"));
                return Ok(());
            }
            hear(answer)
        })
        .await?;
        match (all, unreadable) {
            (_, 0) => Ok(()),
            (1, _) => bail!("the image cannot be read"),
            _ => bail!("{unreadable} of {all} images cannot be read"),
        }
    }

    async fn weights(&self, work: &Work, screen: &Screen) -> Result<Weights> {
        let Some(name) = &self.checkpoint else {
            let client = self.connection.client();
            let client = client.context("without --checkpoint, a coordinator is asked for its newest one")?;
            return self.fetched(&client, None, work, screen).await;
        };
        if Path::new(name).exists() {
            screen.line(&format!("using the weights in {name}"));
            return Ok(Weights::Files { path: name.clone() });
        }
        if name.contains('/') {
            bail!("--checkpoint {name}: there is no such file or folder");
        }
        let client = self.connection.client();
        let client = client.with_context(|| {
            format!("--checkpoint {name} is no file or folder here, so that a coordinator is asked")
        })?;
        self.fetched(&client, Some(name), work, screen).await
    }

    /// A coordinator's checkpoint, in the cache.
    async fn fetched(&self, client: &Client, name: Option<&str>, work: &Work, screen: &Screen) -> Result<Weights> {
        let cache = Cache::new(self.cache.as_deref())?;
        let found = Found::look(client, name, work.stages()).await?;
        screen.line(&format!("using {found}"));
        let checkpoint = found.checkpoint(client, cache.url()).await?;
        cache.hold(client, checkpoint.objects(), screen).await?;
        Ok(Weights::Checkpoint(Box::new(checkpoint)))
    }
}

#[cfg(test)]
mod tests;
