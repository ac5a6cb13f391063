use super::*;
use proptest::prelude::*;

#[test]
fn plain_data_is_read() {
    // {"a": (1, -2, 300), "b": [True]} by protocol 2.
    let bytes =
        b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01J\xfe\xff\xff\xffM\x2c\x01\x87q\x02X\x01\x00\x00\x00b]\x88au.";
    let objects = Objects::read(bytes).unwrap();
    let dict = objects.dict(objects.root()).unwrap();
    assert_eq!(objects.text(dict[0].0), Some("a"));
    let ints: Vec<_> = objects
        .tuple(dict[0].1)
        .unwrap()
        .iter()
        .map(|id| objects.int(*id))
        .collect();
    assert_eq!(ints, [Some(1), Some(-2), Some(300)]);
    assert_eq!(objects.text(dict[1].0), Some("b"));
    assert!(matches!(objects.get(dict[1].1), Value::List(items) if objects.get(items[0]) == &Value::Bool(true)));
}

#[test]
fn calls_are_noted_and_never_made() {
    let objects = Objects::read(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.").unwrap();
    let (name, arguments) = objects.call(objects.root()).unwrap();
    assert_eq!((name, objects.text(arguments[0])), ("os.system", Some("ls")));
}

#[test]
fn a_tower_of_tuples_and_a_doubling_of_lists_cost_no_more_than_their_bytes() {
    let mut tower = b"\x80\x02N".to_vec();
    tower.extend(std::iter::repeat_n(0x85, 1_000_000));
    tower.push(b'.');
    assert!(Objects::read(&tower).is_ok());
    let mut doubling = b"\x80\x02Nq\x00".to_vec();
    for _ in 0..100_000 {
        doubling.extend(b"0h\x00h\x00\x86q\x00");
    }
    doubling.push(b'.');
    assert!(Objects::read(&doubling).is_ok());
}

#[test]
fn truncated_and_unknown_instructions_are_refused() {
    for bytes in [
        &b""[..],
        b"\x80",
        b"X\xff\xff\xff\xffabc",
        b".",
        b"(.",
        b"R",
        b"h\x07.",
        b"Na.",
        b"\xfe",
    ] {
        assert!(Objects::read(bytes).is_err(), "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Objects::read(&bytes);
    }

    #[test]
    fn no_sequence_of_instructions_makes_it_panic(
        codes in prop::collection::vec(prop::sample::select(&b"\x80(N\x88K)]}\x85\x86tasueR\x81bQqh0\x94."[..]), 0..200)
    ) {
        let _ = Objects::read(&codes);
    }
}
