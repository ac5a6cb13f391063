use super::*;
use crate::decode::{Rgb, encode};

/// A JPEG file of one shade.
fn plain(shade: u8) -> Vec<u8> {
    encode(&Rgb {
        width: 8,
        height: 8,
        data: vec![shade; 192],
    })
}

#[test]
fn broken_samples_are_listed_with_their_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.tar");
    let jpeg = plain(9);
    let files: Vec<(&str, &[u8])> = vec![
        ("0.jpg", &jpeg),
        ("0.txt", b"A red ring."),
        ("1.jpg", b"not a jpeg"),
        ("1.txt", b"a cat"),
        ("2.jpg", &jpeg),
        ("2.txt", b" . "),
        ("3.jpg", &jpeg),
        ("4.txt", b"a dog"),
        ("5.jpg", &jpeg),
        ("5.txt", b"\xff\xfe"),
    ];
    shards::write(&path, files.into_iter().map(|(n, b)| (n.to_owned(), b))).unwrap();
    let index = build(&path, &mut |_, _| {}).unwrap();
    assert_eq!(index.samples.len(), 1);
    assert_eq!(index.samples[0].text, "a red ring");
    assert_eq!(index.words["red"], 1);
    let reasons: Vec<Reason> = index.broken.iter().map(|b| b.reason).collect();
    use Reason::{BrokenImage, EmptyCaption, MissingCaption, MissingImage, UnreadableCaption};
    assert_eq!(
        reasons,
        [
            BrokenImage,
            EmptyCaption,
            MissingCaption,
            MissingImage,
            UnreadableCaption
        ]
    );
}

#[test]
fn a_sample_has_all_its_readable_captions_in_order_of_their_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.tar");
    let jpeg = plain(9);
    let files: Vec<(&str, &[u8])> = vec![
        ("0.10.txt", b"a ring"),
        ("0.2.txt", b"the ring"),
        ("0.jpg", &jpeg),
        ("0.3.txt", b" . "),
        ("0.x.txt", b"not a caption"),
        ("0.txt", b"A red ring."),
        ("1.jpg", &jpeg),
        ("1.0.txt", b"\xff"),
        ("1.1.txt", b"a disc"),
        ("2.jpg", b"not a jpeg"),
        ("2.txt", b"a cat"),
        ("2.1.txt", b"the cat"),
        ("3.jpg", &jpeg),
        ("3.1.txt", b" . "),
    ];
    shards::write(&path, files.into_iter().map(|(n, b)| (n.to_owned(), b))).unwrap();
    let index = build(&path, &mut |_, _| {}).unwrap();
    let texts: Vec<Vec<&str>> = index.samples.iter().map(|sample| sample.texts().collect()).collect();
    assert_eq!(texts, [vec!["a red ring", "the ring", "a ring"], vec!["a disc"]]);
    assert_eq!(
        (index.num_texts(), index.words["ring"], index.words.get("cat")),
        (4, 3, None)
    );
    let broken: Vec<(&str, Reason)> = index.broken.iter().map(|b| (b.key.as_str(), b.reason)).collect();
    use Reason::{BrokenImage, EmptyCaption, UnreadableCaption};
    let expected = [
        ("0.3", EmptyCaption),
        ("1.0", UnreadableCaption),
        ("2", BrokenImage),
        ("3.1", EmptyCaption),
    ];
    assert_eq!(broken, expected);
}

#[test]
fn an_index_of_single_captions_is_written_and_read_as_before_there_were_several() {
    let sample = Sample {
        key: "k".into(),
        image: Extent { offset: 512, len: 9 },
        identity: 7,
        text: "a ring".into(),
        more: Box::default(),
    };
    let json = r#"{"key":"k","image":{"offset":512,"len":9},"identity":7,"text":"a ring"}"#;
    assert_eq!(serde_json::to_string(&sample).unwrap(), json);
    assert_eq!(serde_json::from_str::<Sample>(json).unwrap(), sample);
}

#[test]
fn samples_with_the_same_image_share_its_identity() {
    let dir = tempfile::tempdir().unwrap();
    let (dark, light) = (plain(9), plain(200));
    let index = |name: &str, images: [&[u8]; 2]| {
        let path = dir.path().join(name);
        let texts: [&[u8]; 2] = [b"a ring", b"a disc"];
        let files = (0..2).flat_map(|i| [(format!("{i}.jpg"), images[i]), (format!("{i}.txt"), texts[i])]);
        shards::write(&path, files).unwrap();
        let samples = build(&path, &mut |_, _| {}).unwrap().samples;
        samples.iter().map(|sample| sample.identity).collect::<Vec<_>>()
    };
    let (first, second) = (index("a.tar", [&dark, &light]), index("b.tar", [&dark, &dark]));
    assert_eq!(second, [first[0]; 2]);
    assert!(first[0] != first[1] && !first.contains(&0));
}

#[test]
fn nothing_of_a_truncated_archive_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.tar");
    let jpeg = plain(9);
    let files: Vec<(&str, &[u8])> = vec![
        ("0.jpg", &jpeg),
        ("0.txt", b"a ring"),
        ("1.jpg", &jpeg),
        ("1.txt", b"a box"),
    ];
    shards::write(&path, files.into_iter().map(|(n, b)| (n.to_owned(), b))).unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(size - 1024 - 512 - 400)
        .unwrap();
    let index = build(&path, &mut |_, _| {}).unwrap();
    assert_eq!(
        index.damage.as_deref(),
        Some("it is cut short: it ends within the header of a file")
    );
    assert!(index.samples.is_empty() && index.broken.is_empty() && index.words.is_empty());
    let sound = r#"{"size_bytes":1,"blake3":"","samples":[],"broken":[],"words":{}}"#;
    let read: ShardIndex = serde_json::from_str(sound).unwrap();
    assert_eq!(
        (&read.damage, serde_json::to_string(&read).unwrap().as_str()),
        (&None, sound)
    );
}
