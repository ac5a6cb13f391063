use super::super::shared::Shared;
use super::super::tests::blip;
use super::*;

#[test]
fn the_memory_of_a_part_that_was_written_serves_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk {
        objects: Objects::open(&format!("file://{}", dir.path().display())).unwrap(),
        stage: StageId::generate(),
        tensors: Vec::new(),
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    let mut shared = Shared::from(medley_model::state::State::fresh(&blip(), 1));
    let view = shared.view().unwrap();
    let still = view.clone().into();
    let bytes = desk.copy_bytes(&still, 0..1000).unwrap();
    let place = bytes.as_ptr();
    let copied = Copied {
        step: 1,
        part: 0,
        parts: 1,
        range: 0..1000,
        state_bytes: 1000,
        bytes,
    };
    desk.put(&copied, &[]).unwrap();
    desk.lock().keep_memory(copied);
    let next = desk.copy_bytes(&still, 20..900).unwrap();
    assert_eq!(
        (next.as_ptr(), &next[..]),
        (place, &view.copy_bytes(20..900).unwrap()[..])
    );
}
