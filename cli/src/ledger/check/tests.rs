use super::*;
use medley_protocol::ledger::Replaced;

const PAIRS: u64 = 27;

fn facts(steps: u64) -> Facts {
    Facts {
        stage: "pretrain-0".into(),
        seed: 5,
        lanes: 2,
        batch: 3,
        steps,
    }
}

/// What ranks that do right write down: 4 steps of 6 samples in an epoch, 3 samples left. One sample is replaced.
fn entries(steps: u64) -> Vec<LedgerEntry> {
    let lane = |step, lane| {
        let (epoch, position) = place(step, 4, 2, 3, lane, 0);
        let order = Order::new(5, epoch, PAIRS);
        let tries = |position| if (epoch, position) == (1, 7) { 2 } else { 0 };
        let positions = position..position + 3;
        let replaced = positions.clone().filter(|position| tries(*position) > 0);
        LaneSamples {
            epoch,
            position,
            replaced: replaced.map(|position| Replaced { position, tries: 2 }).collect(),
            samples: positions
                .map(|position| order.substitute(position, tries(position)))
                .collect(),
        }
    };
    let entry = |step| LedgerEntry {
        step,
        pairs: PAIRS,
        lanes: vec![lane(step, 0), lane(step, 1)],
    };
    (0..steps).map(entry).collect()
}

fn check(steps: u64, entries: &[LedgerEntry]) -> Report {
    let mut check = Check::new(facts(steps));
    entries.iter().for_each(|entry| check.entry(entry));
    check.finish()
}

#[track_caller]
fn finds(expected: &[&str], spoil: impl FnOnce(&mut Vec<LedgerEntry>)) {
    let mut entries = entries(10);
    spoil(&mut entries);
    assert_eq!(check(10, &entries).faults, expected);
}

#[test]
fn a_whole_ledger_names_what_each_epoch_leaves_and_what_was_replaced() {
    let report = check(10, &entries(10));
    assert!(report.is_whole(), "{:?}", report.faults);
    assert_eq!(
        (report.steps_per_epoch, report.unread.clone(), report.read),
        (4, 24..27, 60)
    );
    let order = Order::new(5, 1, PAIRS);
    let replaced = Substitute {
        step: 5,
        epoch: 1,
        position: 7,
        sample: order.at(7),
        by: order.substitute(7, 2),
        tries: 2,
        names: None,
    };
    assert_eq!(report.replaced, [replaced]);
}

#[test]
fn a_lost_step_is_missing_with_its_positions() {
    let gap = ["no entry: step 6", "never read: position 12 to 17 of epoch 1"];
    finds(&gap, |entries| drop(entries.remove(6)));
    let end = ["no entry: step 8 to 9", "never read: position 0 to 11 of epoch 2"];
    finds(&end, |entries| entries.truncate(8));
}

#[test]
fn a_step_that_is_there_twice_is_told() {
    finds(&["step 3 has more than one entry"], |entries| {
        entries.insert(4, entries[3].clone());
    });
}

#[test]
fn one_wrong_sample_is_found() {
    let due = entries(1)[0].lanes[1].samples[2];
    let wrong = format!(
        "step 0, lane 1: sample {} at position 5 of epoch 0, where the order has {due}",
        due + 1
    );
    finds(&[&wrong], |entries| entries[0].lanes[1].samples[2] += 1);
}

#[test]
fn a_replacement_that_was_not_written_down_is_a_wrong_sample() {
    let faults = {
        let mut entries = entries(10);
        entries[5].lanes[0].replaced.clear();
        check(10, &entries).faults
    };
    assert!(
        faults.len() == 1 && faults[0].contains("position 7 of epoch 1"),
        "{faults:?}"
    );
}

#[test]
fn positions_that_are_read_twice_are_found_and_so_are_those_left_out() {
    let mut spoiled = entries(10);
    spoiled[2].lanes[1] = spoiled[2].lanes[0].clone();
    let faults = check(10, &spoiled).faults;
    assert_eq!(
        faults[0],
        "step 2, lane 1: read from position 12 of epoch 0; its place is 15 of epoch 0"
    );
    assert!(
        faults[1].contains("position 12 of epoch 0 was read before"),
        "{faults:?}"
    );
    assert_eq!(faults.last().unwrap(), "never read: position 15 to 17 of epoch 0");
}

#[test]
fn an_entry_of_another_form_is_refused() {
    finds(
        &["step 1 has 1 lanes, not 2", "never read: position 6 to 11 of epoch 0"],
        |entries| entries[1].lanes.truncate(1),
    );
    let other = [
        "step 1 draws from 28 pairs, not 27",
        "never read: position 6 to 11 of epoch 0",
    ];
    finds(&other, |entries| entries[1].pairs += 1);
}

#[test]
fn many_faults_are_counted() {
    let report = check(200, &[]);
    assert_eq!(report.faults, ["no entry: step 0 to 199"]);
    let mut spoiled = entries(10);
    spoiled
        .iter_mut()
        .for_each(|entry| entry.lanes.iter_mut().for_each(|lane| lane.samples.fill(PAIRS)));
    let report = check(10, &spoiled);
    assert_eq!((report.faults.len(), report.more_faults), (MAX_FAULTS, 40));
}
