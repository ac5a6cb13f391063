//! The demo, as a user runs it: everything must be there in the end, and add up.

use medley_data::shards;
use medley_protocol::ids::JobId;
use medley_protocol::rest::JobDetail;
use medley_protocol::stage::{JobState, StageState};
use medley_tests::programs::{Running, Said, Scratch, call};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The files of the report, the last one to be written last.
const REPORT: [&str; 4] = ["report.json", "report.md", "contact-sheet.html", "contact-sheet.png"];
const STAGES: [&str; 8] = [
    "index-0",
    "pretrain-0",
    "captioner-0",
    "filter-0",
    "capfilt-0",
    "pretrain-1",
    "evaluate-0",
    "evaluate-1",
];

/// A number of the report, by its path.
fn number(value: &Value, path: &str) -> f64 {
    let found = value.pointer(path).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("{path} is no number in {value}"))
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name]
        .as_array()
        .unwrap_or_else(|| panic!("{name} is no list in {value}"))
}

fn check_stages(report: &Value) {
    let mut names: Vec<&str> = list(report, "stages")
        .iter()
        .filter_map(|stage| stage["name"].as_str())
        .collect();
    let mut expected = STAGES;
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected);
    for stage in list(report, "stages") {
        assert!(
            number(stage, "/done") > 0.0 && number(stage, "/seconds") > 0.0,
            "{stage}"
        );
        // One that began beside another stage has grown since.
        assert!((1.0..=4.0).contains(&number(stage, "/generations")), "{stage}");
        assert!((1.0..=4.0).contains(&number(stage, "/ranks")), "{stage}");
        let mebibytes = number(stage, "/peak_rank_bytes") / f64::from(1 << 20);
        assert!(
            (5.0..4096.0).contains(&mebibytes),
            "a rank cannot have needed {mebibytes} MiB: {stage}"
        );
    }
}

fn check_recall(report: &Value) {
    let models = list(report, "models");
    assert_eq!(models.len(), 2, "raw and bootstrapped");
    for model in models {
        for table in [
            "text_to_image_itc",
            "image_to_text_itc",
            "text_to_image_itm",
            "image_to_text_itm",
        ] {
            let at = |k: &str| number(model, &format!("/figures/{table}/at_{k}/value"));
            let rising = [0.0, at("1"), at("5"), at("10"), 1.0];
            assert!(rising.is_sorted(), "{table}: {rising:?}");
            assert!(at("10") > 0.0, "{table}: nothing is found at all");
        }
    }
    assert_eq!(list(report, "differences").len(), 5);
}

fn check_capfilt(report: &Value) {
    let [round] = list(report, "capfilt") else {
        panic!("one round of CapFilt: {report}")
    };
    for source in ["web", "synthetic"] {
        let of = |name: &str| number(round, &format!("/{source}/{name}"));
        assert_eq!(of("texts"), 240.0, "every image of the web set has its text");
        assert_eq!(of("kept") + of("dropped"), of("texts"), "{source}");
        let counts = number(report, &format!("/datasets/0/counts/pairs.{source}"));
        assert_eq!(of("kept"), counts, "the next version holds what was kept: {source}");
    }
    for name in ["texts", "kept"] {
        let kinds = list(&round["web"], "by_noise");
        let sum: f64 = kinds.iter().map(|kind| number(kind, &format!("/{name}"))).sum();
        assert_eq!(sum, number(round, &format!("/web/{name}")), "{name} by kind of noise");
    }
    let pairs = |name: &str| number(report, &format!("/datasets/0/counts/{name}"));
    assert_eq!(
        pairs("pairs"),
        pairs("pairs.human") + pairs("pairs.web") + pairs("pairs.synthetic")
    );
}

/// The sheet has colours of more than paper and marks.
fn check_sheet(path: &Path) {
    let sheet = image::open(path).expect("the contact sheet is an image").into_rgb8();
    assert!(sheet.width() > 500 && sheet.height() > 500, "{:?}", sheet.dimensions());
    let colours: std::collections::BTreeSet<[u8; 3]> = sheet.pixels().map(|pixel| pixel.0).collect();
    assert!(
        colours.len() > 50,
        "the sheet shows no images: it has {} colours",
        colours.len()
    );
}

/// Two images of the held-out set with their texts, as files of their own.
fn pictures(data: &Path, scratch: &Scratch) -> [(String, String); 2] {
    let set = data.join("test");
    let shard = set.join(&shards::list(&set).expect("the corpus has shards")[0]);
    let members = shards::members(&shard).expect("the shard can be read").members;
    let tar = fs::File::open(&shard).expect("the shard can be read");
    let read = |extent| shards::read(&tar, extent).expect("its members can be read");
    std::array::from_fn(|i| {
        let of_kind = |extension: &str| members.iter().filter(|member| member.extension == extension).nth(i);
        let (image, text) = (of_kind("jpg").expect("an image"), of_kind("txt").expect("a text"));
        let path = scratch.path(format!("{}.jpg", image.key));
        fs::write(&path, read(image.extent)).expect("a test may write");
        let text = String::from_utf8(read(text.extent)).expect("texts are UTF-8");
        (path.display().to_string(), text)
    })
}

/// `medley` with `--json` and these arguments: the value it prints, and what it tells.
fn ask(arguments: &[&str]) -> (Value, String) {
    let Said { output, messages } = call("medley", &[&["--json"], arguments].concat());
    (serde_json::from_str(&output).expect("the answer is JSON"), messages)
}

/// The demo's models caption and match images of its corpus: fetched from the coordinator, and from exported files without it.
fn check_use(state_dir: &Path, scratch: &Scratch, job: &JobDetail) {
    let path = |name: &str| scratch.path(name).display().to_string();
    let [(first, right), (second, wrong)] = pictures(&state_dir.join("data"), scratch);
    let (state, cache) = (state_dir.display().to_string(), path("cache"));
    let model = ["--state-dir", &state, "--cache", &cache];

    let (captions, told) = ask(&[&["caption", &first, &second][..], &model].concat());
    assert!(
        told.contains("captioner-0 at step 12") && told.contains("fetching"),
        "{told}"
    );
    for (caption, image) in captions
        .as_array()
        .expect("one for each image")
        .iter()
        .zip([&first, &second])
    {
        assert_eq!(caption["image"], **image);
        assert!(number(caption, "/captions/0/log_probability") < 0.0, "{caption}");
    }
    let (alone, told) = ask(&[&["caption", &second][..], &model].concat());
    assert_eq!((&alone[0], told.contains("fetching")), (&captions[1], false), "{told}");

    let (matches, told) = ask(&[&["match", &first, &wrong, &right][..], &model].concat());
    assert!(told.contains("filter-0 at step 12"), "{told}");
    let [best, other] = [0, 1].map(|i| number(&matches[i], "/probability"));
    assert!(1.0 > best && best >= other && other > 0.0, "{matches}");
    let mut texts = [0, 1].map(|i| matches[i]["text"].as_str().expect("the text is told"));
    let mut asked = [wrong.as_str(), &right];
    texts.sort_unstable();
    asked.sort_unstable();
    assert_eq!(texts, asked);
    assert!((0..2).all(|i| number(&matches[i], "/cosine").abs() <= 1.0), "{matches}");

    let (spec, weights) = (path("spec.json"), path("weights"));
    let shown = call("medley", &["--json", "jobs", "show", "--state-dir", &state]).output;
    fs::write(&spec, shown).expect("a test may write");
    let captioner = job
        .stages
        .iter()
        .find(|stage| stage.name == "captioner-0")
        .expect("there is one");
    let checkpoint = state_dir
        .join("store/checkpoints")
        .join(captioner.id.to_string())
        .display()
        .to_string();
    let export = [
        "weights",
        "export",
        "--checkpoint",
        &checkpoint,
        "--spec",
        &spec,
        "--to",
        "hf-caption",
        "--out",
        &weights,
    ];
    call("medley-worker", &export);
    let lengths = [job.spec.capfilt.min_tokens, job.spec.capfilt.max_tokens].map(|tokens| tokens.to_string());
    let nowhere = path("nowhere");
    let (exported, _) = ask(&[
        "caption",
        &first,
        &second,
        "--checkpoint",
        &weights,
        "--state-dir",
        &nowhere,
        "--min-tokens",
        &lengths[0],
        "--max-tokens",
        &lengths[1],
    ]);
    assert_eq!(exported, captions, "files say what the checkpoint says");
}

#[tokio::test]
async fn the_demo_runs_from_nothing_to_a_report_that_adds_up() {
    let scratch = Scratch::new();
    let state_dir = scratch.path("state");
    let folder = state_dir.join("report");
    let mut demo = Running::start(&["demo", "--quick", "--keep-running"], &state_dir);
    let written = async |_: &Running| REPORT.iter().all(|name| folder.join(name).is_file()).then_some(());
    demo.until("the report is written", written).await;

    let report: Value = serde_json::from_slice(&fs::read(folder.join("report.json")).expect("it was written"))
        .expect("the report is JSON");
    check_stages(&report);
    check_recall(&report);
    check_capfilt(&report);
    check_sheet(&folder.join("contact-sheet.png"));
    let page = fs::read_to_string(folder.join("report.md")).expect("it was written");
    assert!(STAGES.iter().all(|stage| page.contains(stage)), "{page}");

    let job: JobId = report["job"]
        .as_str()
        .and_then(|id| id.parse().ok())
        .expect("the report names its job");
    let detail: JobDetail = demo.get(&format!("/jobs/{job}")).await;
    assert_eq!(detail.job.state, JobState::Succeeded, "{}", detail.job.reason);
    assert!(detail.stages.iter().all(|stage| stage.state == StageState::Done));
    let events = demo.events(job).await;
    let told: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        told.iter().filter(|kind| **kind == "stage-done").count(),
        STAGES.len(),
        "{told:?}"
    );
    for trouble in ["generation-over", "task-failed", "stage-failed", "job-failed"] {
        assert!(!told.contains(&trouble), "{events:?}");
    }
    check_use(&state_dir, &scratch, &detail);
    assert!(
        demo.interrupt().await.success(),
        "Ctrl-C ends a demo that is done in order"
    );
}
