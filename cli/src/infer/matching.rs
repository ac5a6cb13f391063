//! `medley match`: tells how well texts match an image.

use super::Model;
use crate::Ending;
use crate::cluster::program_beside;
use crate::console::{Align, Screen, Table, print, print_json};
use anyhow::{Result, bail};
use medley_protocol::inference::{Answer, Matched, Work};
use std::path::Path;

const MORE: &str = "\
MATCH is the probability that the text describes the image, by the matching head (ITM), which reads image and text
together: it tells one text from another best. COSINE is the similarity of the two features that the contrastive loss
(ITC) trains; use it to compare with other images. The best match comes first.

Without --checkpoint, the newest job with a suitable checkpoint is taken, and of its checkpoints the newest one of a
filter stage, or else of a pretrain stage; the same with a job's name. Which one it was is told on standard error.

A folder or file of weights needs no coordinator: a directory of transformers (BlipForImageTextRetrieval), or a .pth or
.safetensors file. Its vocab.txt or tokenizer.json lies beside it, and its model.json or config.json unless it is one of
the released models. `medley-worker weights export` writes all of these.

Example:
  medley match photo.jpg \"two dogs in the snow\" \"a cat on a sofa\"";

/// Arguments of `medley match`.
#[derive(Debug, clap::Args)]
#[command(after_help = MORE)]
pub(crate) struct Args {
    /// A JPEG or PNG file.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The texts.
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
    #[command(flatten)]
    model: Model,
}

/// Runs the command.
///
/// # Errors
/// When there is no model, or the image cannot be read.
pub(crate) async fn run(args: Args, json: bool) -> Result<Ending> {
    matches(&args, &program_beside("medley-worker")?, &Screen::stderr(), json).await
}

async fn matches(args: &Args, program: &Path, screen: &Screen, json: bool) -> Result<Ending> {
    let work = Work::Match {
        image: args.image.clone(),
        texts: args.texts.clone(),
    };
    let show = |answer| {
        let Answer::Matches { matches, .. } = answer else {
            bail!("matches were asked for, not {answer:?}");
        };
        let matches = best_first(matches);
        if json {
            print_json(&matches)
        } else {
            print(&table(&matches).plain())
        }
    };
    args.model.work(program, work, screen, show).await?;
    Ok(Ending::Success)
}

fn best_first(mut matches: Vec<Matched>) -> Vec<Matched> {
    matches.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    matches
}

fn table(matches: &[Matched]) -> Table {
    let mut table = Table::new(&[("match", Align::Right), ("cosine", Align::Right), ("text", Align::Left)]);
    for matched in matches {
        table.row([
            format!("{:.4}", matched.probability),
            format!("{:.4}", matched.cosine),
            matched.text.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_match_comes_first_with_both_scores() {
        let matched = |text: &str, probability, cosine| Matched {
            text: text.into(),
            probability,
            cosine,
        };
        let matches = best_first(vec![matched("a cube", 0.25, -0.5), matched("a ring", 0.875, 0.125)]);
        let expected = " MATCH   COSINE  TEXT\n0.8750   0.1250  a ring\n0.2500  -0.5000  a cube\n";
        assert_eq!(table(&matches).plain(), expected);
    }
}
