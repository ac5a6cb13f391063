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
Words that the model's vocabulary does not have are told on standard error.

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
    if args.texts.iter().any(|text| text.trim().is_empty()) {
        bail!("a TEXT is empty: say what the image may show");
    }
    let work = Work::Match {
        image: args.image.clone(),
        texts: args.texts.clone(),
    };
    let show = |answer| {
        let Answer::Matches { matches, .. } = answer else {
            bail!("matches were asked for, not {answer:?}");
        };
        let matches = best_first(matches);
        for matched in matches.iter().filter(|matched| !matched.unknown.is_empty()) {
            screen.line(&not_in_vocabulary(matched));
        }
        if json {
            print_json(&matches)
        } else {
            print(&table(&matches).plain())
        }
    };
    args.model.work(program, work, screen, show).await?;
    Ok(Ending::Success)
}

fn not_in_vocabulary(matched: &Matched) -> String {
    format!(
        "{:?}: the model's vocabulary does not have {}, so the scores do not tell them apart from other words",
        matched.text,
        matched.unknown.join(", ")
    )
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

    #[tokio::test]
    async fn an_empty_text_is_refused_before_a_model_is_asked_for() {
        let args = Args {
            image: "a.png".into(),
            texts: vec!["a ring".into(), " ".into()],
            model: Model::default(),
        };
        let error = matches(&args, Path::new("none"), &Screen::stderr(), true)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("a TEXT is empty"), "{error}");
    }

    #[test]
    fn words_that_the_vocabulary_does_not_have_are_named() {
        let matched = Matched {
            text: "zyx ring qwv".into(),
            probability: 0.5,
            cosine: 0.0,
            unknown: vec!["zyx".into(), "qwv".into()],
        };
        let line = not_in_vocabulary(&matched);
        assert!(
            line.starts_with("\"zyx ring qwv\": the model's vocabulary does not have zyx, qwv"),
            "{line}"
        );
    }

    #[test]
    fn the_best_match_comes_first_with_both_scores() {
        let matched = |text: &str, probability, cosine| Matched {
            text: text.into(),
            probability,
            cosine,
            unknown: Vec::new(),
        };
        let matches = best_first(vec![matched("a cube", 0.25, -0.5), matched("a ring", 0.875, 0.125)]);
        let expected = " MATCH   COSINE  TEXT\n0.8750   0.1250  a ring\n0.2500  -0.5000  a cube\n";
        assert_eq!(table(&matches).plain(), expected);
    }
}
