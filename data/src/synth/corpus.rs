//! The three sets as shards, with their truth beside them.

use super::draw::draw;
use super::scene::Scene;
use crate::decode::encode;
use crate::random::Key;
use crate::shards;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::Path;

/// What to generate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SynthSpec {
    /// Seed of everything.
    pub seed: u64,
    /// Images of the human set.
    pub human: u32,
    /// Images of the web set.
    pub web: u32,
    /// Images of the held-out set; at most the 1280 different scenes.
    pub test: u32,
    /// Samples of a shard.
    pub shard: u32,
    /// Share of web texts that belong to another image.
    pub other: f64,
    /// Share of web texts with one wrong attribute.
    pub half_true: f64,
    /// Share of web texts that describe nothing.
    pub boilerplate: f64,
}

/// What is wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Noise {
    /// Nothing.
    Right,
    /// It belongs to another image.
    Other,
    /// One attribute is wrong.
    HalfTrue,
    /// It describes nothing.
    Boilerplate,
}

/// The truth about one sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// File of its shard.
    pub shard: String,
    /// Its key there.
    pub key: String,
    /// The scene shown.
    pub scene: Scene,
    /// What is wrong with its text.
    pub noise: Noise,
}

const BOILERPLATE: [&str; 8] = [
    "free shipping on all orders",
    "click here to see more",
    "stock photo royalty free",
    "image may be subject to copyright",
    "new arrival best price today",
    "sign up for our newsletter",
    "photo gallery page two",
    "add to cart and save",
];

/// The file that holds the spec of what was generated.
const MARKER: &str = "synth.json";

/// Generates the corpus under `dir`, unless the same one is there. `progress` is told (done, total).
///
/// # Errors
/// What the system says, or that the sizes are impossible.
pub fn generate(spec: &SynthSpec, dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> std::io::Result<()> {
    let wanted = serde_json::to_string_pretty(spec)?;
    if std::fs::read_to_string(dir.join(MARKER)).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    if spec.test > 1280 || spec.shard == 0 {
        return Err(std::io::Error::other(
            "test: there are only 1280 different scenes; shard: at least 1",
        ));
    }
    let total = u64::from(spec.human + spec.web + spec.test);
    let mut done = 0;
    let mut test_scenes = BTreeSet::new();
    for (number, (set, count)) in [("human", spec.human), ("web", spec.web), ("test", spec.test)]
        .into_iter()
        .enumerate()
    {
        let key = Key::new(spec.seed).at(number as u64);
        let samples = (0..count).map(|i| {
            let key = key.at(u64::from(i));
            match set {
                "web" => web_sample(spec, key),
                "test" => test_sample(key, &mut test_scenes),
                _ => right_sample(Scene::random(key.at(0)), key),
            }
        });
        write_set(dir, set, samples, spec.shard, &mut || {
            done += 1;
            progress(done, total);
        })?;
    }
    std::fs::write(dir.join(MARKER), wanted)
}

struct Drawn {
    scene: Scene,
    noise: Noise,
    text: String,
    jpeg: Vec<u8>,
}

fn right_sample(scene: Scene, key: Key) -> Drawn {
    Drawn {
        scene,
        noise: Noise::Right,
        text: scene.describe(key.at(1)),
        jpeg: encode(&draw(&scene, key.at(2))),
    }
}

fn test_sample(key: Key, seen: &mut BTreeSet<Scene>) -> Drawn {
    let fresh = (0..u64::from(u32::MAX))
        .map(|attempt| Scene::random(key.at(100).at(attempt)))
        .find(|scene| seen.insert(*scene));
    right_sample(fresh.expect("there are more scenes than test samples"), key)
}

fn web_sample(spec: &SynthSpec, key: Key) -> Drawn {
    let scene = Scene::random(key.at(0));
    let u = key.uniform(3);
    let noise = if u < spec.other {
        Noise::Other
    } else if u < spec.other + spec.half_true {
        Noise::HalfTrue
    } else if u < spec.other + spec.half_true + spec.boilerplate {
        Noise::Boilerplate
    } else {
        Noise::Right
    };
    let described = match noise {
        Noise::Other => different_scene(scene, key.at(4)),
        Noise::HalfTrue => scene.with_one_change(key.at(4)),
        Noise::Right | Noise::Boilerplate => scene,
    };
    let text = match noise {
        Noise::Boilerplate => (*key.choose(5, &BOILERPLATE)).to_owned(),
        _ => described.describe(key.at(1)),
    };
    Drawn {
        scene,
        noise,
        text,
        jpeg: encode(&draw(&scene, key.at(2))),
    }
}

fn different_scene(scene: Scene, key: Key) -> Scene {
    let others = (0..).map(|attempt| Scene::random(key.at(attempt)));
    others
        .into_iter()
        .find(|other| *other != scene)
        .expect("scenes differ sooner or later")
}

fn write_set(
    dir: &Path,
    set: &str,
    samples: impl Iterator<Item = Drawn>,
    per_shard: u32,
    progress: &mut dyn FnMut(),
) -> std::io::Result<()> {
    let (shards_dir, truth_dir) = (dir.join(set), dir.join("truth"));
    if shards_dir.exists() {
        std::fs::remove_dir_all(&shards_dir)?;
    }
    std::fs::create_dir_all(&shards_dir)?;
    std::fs::create_dir_all(&truth_dir)?;
    let mut truth = std::io::BufWriter::new(std::fs::File::create(truth_dir.join(format!("{set}.jsonl")))?);
    let mut samples = samples.peekable();
    for number in 0.. {
        if samples.peek().is_none() {
            break;
        }
        let file = format!("shard-{number:06}.tar");
        let mut members: Vec<(String, Vec<u8>)> = Vec::new();
        for (i, drawn) in samples.by_ref().take(per_shard as usize).enumerate() {
            let key = format!("{:06}", number * per_shard + i as u32);
            members.push((format!("{key}.jpg"), drawn.jpeg));
            members.push((format!("{key}.txt"), drawn.text.into_bytes()));
            let line = Truth {
                shard: file.clone(),
                key,
                scene: drawn.scene,
                noise: drawn.noise,
            };
            writeln!(truth, "{}", serde_json::to_string(&line)?)?;
            progress();
        }
        shards::write(
            &shards_dir.join(&file),
            members.iter().map(|(name, bytes)| (name.clone(), bytes.as_slice())),
        )?;
    }
    truth.flush()
}

/// The truth about a set, for scoring.
///
/// # Errors
/// What the system says, or what is wrong with a line.
pub fn read_truth(dir: &Path, set: &str) -> std::io::Result<Vec<Truth>> {
    let file = std::fs::File::open(dir.join("truth").join(format!("{set}.jsonl")))?;
    std::io::BufReader::new(file)
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index;

    fn spec() -> SynthSpec {
        SynthSpec {
            seed: 1,
            human: 20,
            web: 400,
            test: 30,
            shard: 50,
            other: 0.25,
            half_true: 0.2,
            boilerplate: 0.1,
        }
    }

    #[test]
    fn the_same_spec_makes_the_same_bytes_and_is_not_made_twice() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut calls = 0;
        generate(&spec(), a.path(), &mut |_, _| calls += 1).unwrap();
        assert_eq!(calls, 450);
        generate(&spec(), a.path(), &mut |_, _| panic!("it is there already")).unwrap();
        generate(&spec(), b.path(), &mut |_, _| {}).unwrap();
        let shard = "web/shard-000003.tar";
        assert_eq!(
            std::fs::read(a.path().join(shard)).unwrap(),
            std::fs::read(b.path().join(shard)).unwrap()
        );
    }

    #[test]
    fn every_sample_is_readable_and_noise_has_its_share() {
        let dir = tempfile::tempdir().unwrap();
        generate(&spec(), dir.path(), &mut |_, _| {}).unwrap();
        let names = shards::list(&dir.path().join("web")).unwrap();
        assert_eq!(names.len(), 8);
        let index = index::build(&dir.path().join("web").join(&names[0]), &mut |_, _| {}).unwrap();
        assert_eq!((index.samples.len(), index.broken.len()), (50, 0));
        let truth = read_truth(dir.path(), "web").unwrap();
        let share = truth.iter().filter(|t| t.noise == Noise::Right).count() as f64 / 400.0;
        assert!((0.37..0.53).contains(&share), "{share}");
        let test: BTreeSet<Scene> = read_truth(dir.path(), "test")
            .unwrap()
            .iter()
            .map(|t| t.scene)
            .collect();
        assert_eq!(test.len(), 30);
    }
}
