//! What can be read in a shard, found before anything is trained on it.
//!
//! Every image is decoded and every caption cleaned once, when the dataset version is made. What is broken is listed with a
//! reason and left out, a caption without its image's others; while training nothing is skipped. An archive that is damaged as a
//! whole is no broken sample: nobody knows how many are lost with it, so none of it counts, and no version is made of it.
//!
//! An image has one caption, `KEY.txt`, or several, `KEY.txt`, `KEY.1.txt`, `KEY.2.txt` and so on.

use crate::shards::{self, Extent, MAX_IMAGE_BYTES, MAX_TEXT_BYTES, Member};
use crate::text::{WordCounts, clean, words};
use crate::{decode, shards::Error};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// Why a sample is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The image cannot be decoded.
    BrokenImage,
    /// Nothing is left of the caption after cleaning.
    EmptyCaption,
    /// The caption is not UTF-8.
    UnreadableCaption,
    /// There is a caption but no image.
    MissingImage,
    /// There is an image but no caption.
    MissingCaption,
    /// A member is larger than any sample should be.
    TooLarge,
    /// Found in indexes that were made before damaged archives were refused: what followed in it is lost.
    BrokenArchive,
}

impl Reason {
    /// The name used in counts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BrokenImage => "broken-image",
            Self::EmptyCaption => "empty-caption",
            Self::UnreadableCaption => "unreadable-caption",
            Self::MissingImage => "missing-image",
            Self::MissingCaption => "missing-caption",
            Self::TooLarge => "too-large",
            Self::BrokenArchive => "broken-archive",
        }
    }
}

/// A readable sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Its key in the shard.
    pub key: String,
    /// Where its image lies.
    pub image: Extent,
    /// What tells its image from others: a hash of the image's bytes, never 0. Texts of one image share it, be they in
    /// one shard or in several.
    pub identity: u64,
    /// Its cleaned caption; the first of several.
    pub text: String,
    /// Its other captions. Most samples have none, and none takes no memory of its own.
    #[serde(default, skip_serializing_if = "<[String]>::is_empty")]
    pub more: Box<[String]>,
}

impl Sample {
    /// Number of its captions, at least 1.
    pub fn num_texts(&self) -> usize {
        1 + self.more.len()
    }

    /// Its captions.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        [&self.text].into_iter().chain(&self.more).map(String::as_str)
    }
}

/// A sample, or one of its captions, that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Its key in the shard; of a numbered caption, with the number.
    pub key: String,
    /// Why.
    pub reason: Reason,
    /// More about it.
    pub detail: String,
}

/// The index of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardIndex {
    /// Size of the file: a shard that changed is noticed.
    pub size_bytes: u64,
    /// BLAKE3 of the file.
    pub blake3: String,
    /// Readable samples, in order.
    pub samples: Vec<Sample>,
    /// The others, in order.
    pub broken: Vec<Broken>,
    /// What is wrong with the archive as a whole, if anything is; no sample is listed then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// Words of the readable captions.
    pub words: WordCounts,
}

impl ShardIndex {
    /// Readable captions of all samples.
    pub fn num_texts(&self) -> usize {
        self.samples.iter().map(Sample::num_texts).sum()
    }
}

/// Members of one sample.
#[derive(Default)]
struct Parts {
    image: Option<Extent>,
    /// By number; the one without a number first.
    texts: BTreeMap<Option<u16>, Extent>,
}

/// Why something is not there.
enum Fault {
    /// It is broken: why, and more about it.
    Broken(Reason, String),
    /// The file cannot be read.
    Unread(std::io::Error),
}

/// Reads every sample of a shard. `progress` is told (done, total).
///
/// # Errors
/// [`Error::Io`] if the file cannot be read at all.
pub fn build(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<ShardIndex, Error> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let found = shards::members(path)?;
    let mut file = File::open(path).map_err(io)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).map_err(io)?;
    let mut index = ShardIndex {
        size_bytes: file.metadata().map_err(io)?.len(),
        blake3: hasher.finalize().to_string(),
        samples: Vec::new(),
        broken: Vec::new(),
        damage: found.broken,
        words: WordCounts::new(),
    };
    if index.damage.is_some() {
        return Ok(index);
    }
    let groups = group(&found.members);
    let total = groups.len() as u64;
    for (i, (key, parts)) in groups.into_iter().enumerate() {
        if let Some(sample) = sample(&mut file, &key, &parts, &mut index.broken).map_err(io)? {
            for word in sample.texts().flat_map(words) {
                *index.words.entry(word).or_default() += 1;
            }
            index.samples.push(sample);
        }
        progress(i as u64 + 1, total);
    }
    Ok(index)
}

/// Members by key, in order of first appearance.
fn group(members: &[Member]) -> Vec<(String, Parts)> {
    let mut groups: Vec<(String, Parts)> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for member in members {
        let at = *places.entry(&member.key).or_insert_with(|| {
            groups.push((member.key.clone(), Parts::default()));
            groups.len() - 1
        });
        let parts = &mut groups[at].1;
        match member.extension.as_str() {
            "jpg" | "jpeg" => parts.image = Some(member.extent),
            "txt" => {
                parts.texts.insert(None, member.extent);
            }
            extension => {
                if let Some(number) = number_of_text(extension) {
                    parts.texts.insert(Some(number), member.extent);
                }
            }
        }
    }
    groups
}

/// The number in `KEY.N.txt`. A [`Pair`](crate::dataset::Pair) can tell 65,536 texts apart.
fn number_of_text(extension: &str) -> Option<u16> {
    let number = extension.strip_suffix(".txt")?.parse().ok()?;
    (number < u16::MAX).then_some(number)
}

/// Reads a sample. What is broken in it is put to `broken`: each text by itself, an image once.
fn sample(file: &mut File, key: &str, parts: &Parts, broken: &mut Vec<Broken>) -> std::io::Result<Option<Sample>> {
    let mut refuse = |number: Option<u16>, reason, detail| {
        let key = number.map_or_else(|| key.to_owned(), |number| format!("{key}.{number}"));
        broken.push(Broken { key, reason, detail });
    };
    let Some(extent) = parts.image else {
        refuse(None, Reason::MissingImage, "there is no .jpg".to_owned());
        return Ok(None);
    };
    if parts.texts.is_empty() {
        refuse(None, Reason::MissingCaption, "there is no .txt".to_owned());
    }
    let mut texts = Vec::new();
    for (number, extent) in &parts.texts {
        match text(file, *extent) {
            Ok(text) => texts.push(text),
            Err(Fault::Broken(reason, detail)) => refuse(*number, reason, detail),
            Err(Fault::Unread(error)) => return Err(error),
        }
    }
    let mut texts = texts.into_iter();
    let Some(first) = texts.next() else { return Ok(None) };
    match image(file, extent) {
        Ok(identity) => Ok(Some(Sample {
            key: key.to_owned(),
            image: extent,
            identity,
            text: first,
            more: texts.collect(),
        })),
        Err(Fault::Broken(reason, detail)) => {
            refuse(None, reason, detail);
            Ok(None)
        }
        Err(Fault::Unread(error)) => Err(error),
    }
}

/// A cleaned caption.
fn text(file: &mut File, extent: Extent) -> Result<String, Fault> {
    let bytes = member(file, extent, "text", MAX_TEXT_BYTES)?;
    let unreadable = |error: std::string::FromUtf8Error| Fault::Broken(Reason::UnreadableCaption, error.to_string());
    let caption = clean(&String::from_utf8(bytes).map_err(unreadable)?);
    if caption.is_empty() {
        return Err(Fault::Broken(Reason::EmptyCaption, String::new()));
    }
    Ok(caption)
}

/// The identity of an image that can be decoded.
fn image(file: &mut File, extent: Extent) -> Result<u64, Fault> {
    let bytes = member(file, extent, "image", MAX_IMAGE_BYTES)?;
    decode::jpeg(&bytes).map_err(|error| Fault::Broken(Reason::BrokenImage, error.to_string()))?;
    Ok(identity(&bytes))
}

fn member(file: &mut File, extent: Extent, what: &str, limit: u64) -> Result<Vec<u8>, Fault> {
    if extent.len > limit {
        return Err(Fault::Broken(
            Reason::TooLarge,
            format!("{what} of {} bytes", extent.len),
        ));
    }
    shards::read(file, extent).map_err(Fault::Unread)
}

fn identity(image: &[u8]) -> u64 {
    let hash = blake3::hash(image);
    let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first).max(1)
}

#[cfg(test)]
mod tests;
