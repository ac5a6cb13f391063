//! `medley caption`: says what images show.

use super::Model;
use crate::Ending;
use crate::cluster::program_beside;
use crate::console::{Screen, print, print_json};
use anyhow::{Result, bail};
use medley_protocol::inference::{Answer, CaptionText, Captioning, MAX_COUNT, Search, Work};
use std::path::Path;

const MORE: &str = "\
Each line is an image, the natural logarithm of the caption's probability, and the caption. An image's captions do not
depend on the images beside it.

Without --checkpoint, the newest job with a suitable checkpoint is taken, and of its checkpoints the newest one of a
captioner stage, or else of a pretrain stage; the same with a job's name. Which one it was is told on standard error.

A folder or file of weights needs no coordinator: a directory of transformers (BlipForConditionalGeneration), or a .pth
or .safetensors file. Its vocab.txt or tokenizer.json lies beside it, and its model.json or config.json unless it is one
of the released models. `medley-worker weights export` writes all of these.

Examples:
  medley caption photo.jpg
  medley caption --search nucleus --count 5 --seed 1 photo.jpg
  medley caption --checkpoint blip-image-captioning-base --prompt \"a picture of\" *.jpg";

/// Arguments of `medley caption`.
#[derive(Debug, clap::Args)]
#[command(after_help = MORE)]
pub(crate) struct Args {
    /// JPEG or PNG files.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// How words are chosen.
    #[arg(long, value_enum, default_value_t = By::Beam)]
    search: By,
    /// Captions of each image.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_COUNT)))]
    count: u32,
    /// Seed of the draws of a nucleus [default: that of the job].
    #[arg(long)]
    seed: Option<u64>,
    /// What captions begin with; it is not printed [default: what the stage was trained with; nothing for weights on disk].
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Fewest tokens of a caption, prompt included [default: capfilt.min_tokens of the job; 5 for weights on disk].
    #[arg(long, value_name = "N")]
    min_tokens: Option<u32>,
    /// Most tokens of a caption, prompt included [default: capfilt.max_tokens of the job; 20 for weights on disk].
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    #[command(flatten)]
    model: Model,
}

/// How words are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// Draws from the likeliest words, as CapFilt does: varied captions.
    Nucleus,
    /// Keeps several beginnings in sight: the likeliest captions.
    Beam,
    /// Takes the likeliest word, always: fast.
    Greedy,
}

impl Args {
    fn work(&self) -> Result<Work> {
        if self.search == By::Greedy && self.count > 1 {
            bail!(
                "--count {}: a greedy search finds one caption; use --search beam or --search nucleus",
                self.count
            );
        }
        if let (Some(seed), true) = (self.seed, self.search != By::Nucleus) {
            bail!("--seed {seed}: only --search nucleus draws");
        }
        let search = match self.search {
            By::Nucleus => Search::Nucleus,
            By::Beam => Search::Beam,
            By::Greedy => Search::Greedy,
        };
        Ok(Work::Caption {
            images: self.images.clone(),
            how: Captioning {
                search,
                count: self.count,
                prompt: self.prompt.clone(),
                min_tokens: self.min_tokens,
                max_tokens: self.max_tokens,
                seed: self.seed,
            },
        })
    }
}

/// Runs the command.
///
/// # Errors
/// When there is no model, or an image cannot be read; the others are captioned nevertheless.
pub(crate) async fn run(args: Args, json: bool) -> Result<Ending> {
    captions(&args, &program_beside("medley-worker")?, &Screen::stderr(), json).await
}

pub(super) async fn captions(args: &Args, program: &Path, screen: &Screen, json: bool) -> Result<Ending> {
    let width = args.images.iter().map(|image| image.chars().count()).max().unwrap_or(0);
    let mut all = Vec::new();
    let done = args
        .model
        .work(program, args.work()?, screen, |answer| {
            if json {
                all.push(answer);
                return Ok(());
            }
            let Answer::Captions { image, captions } = answer else {
                bail!("captions were asked for, not {answer:?}");
            };
            print(
                &captions
                    .iter()
                    .map(|caption| line(&image, width, caption))
                    .collect::<String>(),
            )
        })
        .await;
    if json {
        print_json(&all)?;
    }
    done.map(|()| Ending::Success)
}

fn line(image: &str, width: usize, caption: &CaptionText) -> String {
    format!("{image:width$}  {:8.3}  {}\n", caption.log_probability, caption.text)
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

    fn work(arguments: &[&str]) -> Result<Work> {
        Cli::try_parse_from([&["caption"], arguments].concat())?.args.work()
    }

    #[test]
    fn captions_are_searched_by_beams_unless_something_else_is_said() {
        let Work::Caption { images, how } = work(&["a.jpg", "b.png"]).unwrap() else {
            panic!("captions were asked for")
        };
        assert_eq!(
            (images.len(), how.search, how.count, how.seed),
            (2, Search::Beam, 1, None)
        );
    }

    #[test]
    fn arguments_that_contradict_each_other_are_refused_by_their_flags() {
        for (arguments, flag) in [
            (&["--search", "greedy", "--count", "2", "a.jpg"][..], "--count 2"),
            (&["--seed", "3", "a.jpg"], "--seed 3"),
            (&["--count", "0", "a.jpg"], "--count"),
            (&["--count", "17", "a.jpg"], "--count"),
            (&["--search", "depth", "a.jpg"], "nucleus, beam, greedy"),
            (&["--search", "beam"], "IMAGE"),
        ] {
            let error = work(arguments).unwrap_err().to_string();
            assert!(error.contains(flag), "{error}");
        }
    }

    #[test]
    fn captions_of_images_with_names_of_any_length_stand_below_each_other() {
        let caption = CaptionText {
            text: "a red ring".into(),
            log_probability: -3.25,
        };
        assert_eq!(line("é.jpg", 7, &caption), "é.jpg      -3.250  a red ring\n");
    }
}
