//! From a reference to a model to printed answers, with a program in the worker's place that notes what it is asked.

use super::*;
use crate::fake::{self, Coordinator, TOKEN, moment};
use medley_protocol::checkpoint::{CheckpointPart, ObjectRef};
use medley_protocol::ids::DatasetId;
use medley_protocol::inference::CaptionText;
use medley_protocol::rest::DatasetView;
use medley_protocol::stage::{StageKind, StageState};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use tokio::sync::mpsc::UnboundedReceiver;

struct World {
    dir: tempfile::TempDir,
    screen: Screen,
    lines: UnboundedReceiver<String>,
}

impl World {
    fn new() -> Self {
        let (screen, lines) = Screen::captured();
        let dir = tempfile::tempdir().unwrap();
        Self { dir, screen, lines }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program that writes what it is asked to `asked`, and then does this.
    fn program(&self, script: &str) -> PathBuf {
        let path = self.path("worker");
        let asked = self.path("asked");
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = infer ] || exit 9\ncat > '{}'\n{script}\n",
            asked.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn asked(&self) -> Request {
        serde_json::from_slice(&fs::read(self.path("asked")).unwrap()).unwrap()
    }

    /// A model in this folder, with a cache of its own.
    fn model(&self, checkpoint: Option<&str>) -> Model {
        Model {
            checkpoint: checkpoint.map(str::to_owned),
            cache: Some(self.path("cache")),
            connection: Connection {
                state_dir: Some(self.path("nowhere")),
                ..Connection::default()
            },
        }
    }

    /// Has captions made; the answers that were heard.
    async fn caption(&self, model: &Model, script: &str) -> Result<Vec<Answer>> {
        let mut heard = Vec::new();
        let hear = |answer| {
            heard.push(answer);
            Ok(())
        };
        model
            .work(&self.program(script), captioning(), &self.screen, hear)
            .await?;
        Ok(heard)
    }

    fn told(&mut self) -> String {
        std::iter::from_fn(|| self.lines.try_recv().ok())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

fn captioning() -> Work {
    let request = serde_json::json!({
        "do": "caption", "images": ["a.jpg", "b.jpg"],
        "how": {"search": "beam", "count": 1, "prompt": null, "min_tokens": null, "max_tokens": null, "seed": null},
    });
    serde_json::from_value(request).unwrap()
}

const GOOD: &str =
    r#"echo '{"answer":"captions","image":"a.jpg","captions":[{"text":"a ring","log_probability":-1.5}]}'"#;
const BAD: &str = r#"echo '{"answer":"unreadable","image":"b.jpg","reason":"not a readable JPEG"}'"#;

#[tokio::test]
async fn weights_on_disk_need_no_coordinator() {
    let mut world = World::new();
    let folder = world.path("weights");
    fs::create_dir(&folder).unwrap();
    let name = folder.to_str().unwrap();
    let heard = world.caption(&world.model(Some(name)), GOOD).await.unwrap();
    let captions = vec![CaptionText {
        text: "a ring".into(),
        log_probability: -1.5,
    }];
    let image = "a.jpg".into();
    assert_eq!(heard, [Answer::Captions { image, captions }]);
    let asked = world.asked();
    assert_eq!(
        (asked.weights, asked.work),
        (Weights::Files { path: name.into() }, captioning())
    );
    assert!(world.told().contains(name), "it is told which weights were taken");
}

#[tokio::test]
async fn what_cannot_be_found_is_told_with_where_it_was_looked_for() {
    let world = World::new();
    let error = world.caption(&world.model(Some("no/weights")), GOOD).await.unwrap_err();
    assert!(error.to_string().contains("no such file or folder"), "{error}");
    for name in [Some("shapes"), None] {
        let error = format!("{:#}", world.caption(&world.model(name), GOOD).await.unwrap_err());
        assert!(
            error.contains("medley up") && error.contains("coordinator.url"),
            "{error}"
        );
        let why = if name.is_some() {
            "no file or folder here"
        } else {
            "without --checkpoint"
        };
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn an_unreadable_image_is_told_and_is_an_error_in_the_end() {
    let mut world = World::new();
    let model = world.model(Some(world.dir.path().to_str().unwrap()));
    let error = world.caption(&model, &format!("{BAD}\n{GOOD}")).await.unwrap_err();
    assert_eq!(error.to_string(), "1 of 2 images cannot be read");
    assert!(world.told().contains("image b.jpg: not a readable JPEG"));
}

#[tokio::test]
async fn a_worker_that_fails_is_quoted() {
    let mut world = World::new();
    let model = world.model(Some(world.dir.path().to_str().unwrap()));
    let fails = "echo 'WARN slow' >&2\necho 'error: w.pth: is broken' >&2\nexit 1";
    let error = world.caption(&model, &format!("{GOOD}\n{fails}")).await.unwrap_err();
    assert_eq!(error.to_string(), "w.pth: is broken");
    assert!(world.told().contains("WARN slow"));
    let error = world.caption(&model, "kill -9 $$").await.unwrap_err().to_string();
    assert!(error.contains("signal: 9"), "{error}");
    let error = world.caption(&model, "echo hello").await.unwrap_err().to_string();
    assert!(error.contains("\"hello\"") && error.contains("one build"), "{error}");
}

/// A coordinator with a captioner's checkpoint in three parts, the last of which holds no weights.
async fn trained() -> (Coordinator, String) {
    let coordinator = Coordinator::start().await;
    let put = |key: &str, bytes: &[u8]| {
        coordinator.put_object(key, bytes.to_vec());
        ObjectRef {
            key: key.into(),
            blake3: blake3::hash(bytes).to_hex().to_string(),
            size_bytes: bytes.len() as u64,
        }
    };
    let mut job = fake::job("shapes");
    let stage = fake::stage("captioner-0", StageKind::Captioner, StageState::Done);
    let mut checkpoint = fake::checkpoint(&stage, 9);
    checkpoint.state_bytes = 600;
    let part = |part, object: ObjectRef| CheckpointPart {
        step: 9,
        part,
        parts: 3,
        offset_bytes: u64::from(part) * 200,
        state_bytes: 600,
        object,
        tensors: None,
    };
    checkpoint.parts = vec![
        part(0, put("parts/0", b"abc")),
        part(1, put("parts/1", b"def")),
        part(2, put("parts/2", b"moments")),
    ];
    coordinator.put_checkpoint(&checkpoint);
    coordinator.put_dataset(DatasetView {
        id: DatasetId::generate(),
        parent: None,
        stage: stage.id,
        version: 0,
        object: put("dataset", b"{}"),
        vocab: put("vocab", b"[PAD]"),
        counts: [].into(),
        created_at: moment(1),
    });
    job.stages = vec![stage];
    coordinator.put_job(&job);
    (coordinator, checkpoint.id.to_string())
}

#[tokio::test]
async fn a_coordinators_checkpoint_is_fetched_with_its_vocabulary_and_told() {
    let mut world = World::new();
    let (coordinator, id) = trained().await;
    fs::write(world.path("token"), TOKEN).unwrap();
    let mut model = world.model(None);
    model.connection.url = Some(coordinator.url().into());
    model.connection.token_file = Some(world.path("token"));
    assert_eq!(world.caption(&model, GOOD).await.unwrap().len(), 1);
    let Weights::Checkpoint(checkpoint) = world.asked().weights else {
        panic!("there are no files")
    };
    assert_eq!(
        (checkpoint.kind, checkpoint.manifest.id.to_string()),
        (StageKind::Captioner, id.clone())
    );
    assert_eq!(checkpoint.store, format!("file://{}", world.path("cache").display()));
    for (key, bytes) in [("parts/0", "abc"), ("parts/1", "def"), ("vocab", "[PAD]")] {
        assert_eq!(fs::read_to_string(world.path("cache").join(key)).unwrap(), bytes);
    }
    assert!(
        !world.path("cache/parts/2").exists(),
        "what is not needed is not fetched"
    );
    let told = world.told();
    assert!(
        told.contains("captioner-0 at step 9") && told.contains(&id) && told.contains("fetching 11 B"),
        "{told}"
    );
    world.caption(&model, GOOD).await.unwrap();
    assert!(!world.told().contains("fetching"), "it is there already");
}
