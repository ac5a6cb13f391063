//! Writing a state for other programs.
//!
//! Two directories that `transformers` loads with `from_pretrained`, one for captions and one for image-text matching; and
//! the released code's names, as its `.pth` or as safetensors. A directory appears at its place only when it is complete.

mod hf;
mod pth;
mod safetensors;
mod tensors;

use super::description::Description;
use super::error::Error;
use crate::blip::Blip;
use crate::state::State;
use std::fs;
use std::path::{Path, PathBuf};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory for `BlipForConditionalGeneration` and `BlipProcessor`.
    HfCaption,
    /// A directory for `BlipForImageTextRetrieval` and `BlipProcessor`.
    HfRetrieval,
    /// The released code's checkpoint: `{"model": state_dict}`, momentum encoders and queues included; its dimensions and
    /// vocabulary lie beside it.
    Pth,
    /// The same tensors under the same names, tied ones once, as safetensors.
    Safetensors,
}

impl Kind {
    /// The file of weights within the directory.
    pub const fn file(self) -> &'static str {
        match self {
            Self::HfCaption | Self::HfRetrieval | Self::Safetensors => "model.safetensors",
            Self::Pth => "model.pth",
        }
    }
}

/// A model to be written.
#[derive(Clone, Copy)]
pub struct Export<'a> {
    /// The model.
    pub blip: &'a Blip,
    /// Its state.
    pub state: &'a State,
    /// Its vocabulary, one token a line.
    pub vocabulary: &'a str,
}

impl Export<'_> {
    /// Writes the directory `out`, which must not exist or be empty.
    ///
    /// # Errors
    /// [`Error`]: `out` holds something, or cannot be written.
    pub fn write(&self, kind: Kind, out: &Path) -> Result<(), Error> {
        let occupied = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
        if occupied || out.is_file() {
            return Err(Error::file(
                out,
                "is there already: give another directory, or remove it",
            ));
        }
        let partial = partial(out);
        let made = fs::create_dir_all(&partial).map_err(Error::io(&partial));
        let written = made.and_then(|()| self.fill(kind, &partial));
        let moved = written.and_then(|()| fs::rename(&partial, out).map_err(Error::io(out)));
        if moved.is_err() {
            // What is left of it is of no use; if it cannot be removed, the first error matters more.
            let _ = fs::remove_dir_all(&partial);
        }
        moved
    }

    fn fill(&self, kind: Kind, directory: &Path) -> Result<(), Error> {
        let weights = directory.join(kind.file());
        let (blip, params) = (self.blip, &self.state.params);
        match kind {
            Kind::Pth => {
                pth::write(&weights, &tensors::official(blip, self.state))?;
                self.describe(directory)
            }
            Kind::Safetensors => {
                safetensors::write(&weights, &tensors::official(blip, self.state))?;
                self.describe(directory)
            }
            Kind::HfCaption => {
                safetensors::write(&weights, &tensors::captioner(blip, params))?;
                hf::write(directory, blip, "BlipForConditionalGeneration", self.vocabulary)
            }
            Kind::HfRetrieval => {
                safetensors::write(&weights, &tensors::matcher(blip, params))?;
                hf::write(directory, blip, "BlipForImageTextRetrieval", self.vocabulary)
            }
        }
    }

    /// Writes what files in the released code's layout leave open.
    fn describe(&self, directory: &Path) -> Result<(), Error> {
        Description::of(self.blip).write(directory)?;
        let path = directory.join("vocab.txt");
        fs::write(&path, self.vocabulary).map_err(Error::io(&path))
    }
}

/// A sibling to write into.
fn partial(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    out.with_file_name(name)
}
