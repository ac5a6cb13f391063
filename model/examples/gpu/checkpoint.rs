//! What a checkpoint of the whole state costs the steps beside which it is copied and written.

use crate::fixture::{Fixture, commit_of, lane_step};
use medley_model::device::{Buffer, Device, Fetcher, Pool};
use medley_model::params::Objective;
use medley_model::state::{Resident, Snapshot, State};
use std::fs::File;
use std::io::Write;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

/// Steps without a checkpoint.
const PLAIN: usize = 20;
/// Checkpoints.
const ROUNDS: usize = 3;

/// What the thread that copies and writes is given, and what it says.
struct Order {
    snapshot: Snapshot,
    begun: Instant,
}

enum Said {
    /// It is copied: within this time, and what was copied, hashed.
    Copied(Duration, blake3::Hash, Buffer),
    /// It is written.
    Written(Duration),
}

/// Takes checkpoints of `preset` in bf16 at its own batch; whether what was copied is the state.
pub(crate) fn measure(preset: &str, device: &Device) -> bool {
    let mut training = Training::new(preset, device);
    let bytes = training.state.num_bytes();
    let gib = bytes as f64 / f64::from(1 << 30);
    for _ in 0..5 {
        training.step();
    }
    let plain = Steps::new((0..PLAIN).map(|_| training.step()).collect());
    println!(
        "{preset}: a state of {gib:.2} GiB; {} without a checkpoint",
        plain.told()
    );
    let (order, ordered) = mpsc::channel();
    let (say, said) = mpsc::channel();
    let fetcher = device.fetcher().unwrap_or_else(|error| panic!("{error}"));
    let thread = std::thread::spawn(move || serve(fetcher, &ordered, &say));
    let (mut room, mut well) = (None, true);
    for round in 0..ROUNDS {
        let begun = Instant::now();
        let kept = room
            .take()
            .or_else(|| device.spare_buffer(Resident::room_for(bytes), 0));
        let Some(kept) = kept else {
            println!("the device has no room for a snapshot");
            return false;
        };
        let allocated = begun.elapsed();
        let snapshot = training.state.snapshot(0..bytes, kept);
        let snapshot = snapshot.unwrap_or_else(|error| panic!("{error}"));
        let asked = begun.elapsed();
        // What it must be, before the state changes; this takes no part in the times.
        let expected = (round == 0).then(|| training.stored().digest());
        order
            .send(Order {
                snapshot,
                begun: Instant::now(),
            })
            .expect("the thread listens");
        let first = training.step();
        let (copying, copied) = training.until(&said);
        let (writing, written) = training.until(&said);
        let (Said::Copied(copied, hash, back), Said::Written(written)) = (copied, written) else {
            panic!("first it is copied, then written");
        };
        room = Some(back);
        well &= expected.is_none_or(|expected| expected == hash);
        println!(
            "checkpoint {round}: {:.2} ms for the thread that trains ({:.2} of it for memory), and the step behind it {:+.2} ms",
            ms(asked),
            ms(allocated),
            ms(first) - plain.median()
        );
        println!(
            "  copied in {:.0} ms, {:.1} GB/s; {}",
            ms(copied),
            rate(bytes, copied),
            Steps::new(copying).told()
        );
        println!(
            "  written in {:.0} ms, {:.2} GB/s; {}",
            ms(written),
            rate(bytes, written),
            Steps::new(writing).told()
        );
    }
    drop(order);
    thread.join().expect("the thread ends");
    well &= training.without_room();
    println!(
        "{}",
        if well {
            "what was copied is the state"
        } else {
            "WRONG: what was copied is not the state"
        }
    );
    well
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn rate(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / 1e9 / time.as_secs_f64()
}

/// Copies, hashes and writes.
fn serve(mut fetcher: Fetcher, ordered: &Receiver<Order>, said: &Sender<Said>) {
    let path = std::env::temp_dir().join("medley-gpu-checkpoint");
    let mut bytes = Vec::new();
    while let Ok(Order { snapshot, begun }) = ordered.recv() {
        bytes.clear();
        bytes.reserve(snapshot.num_bytes());
        let all = 0..snapshot.num_bytes();
        let copied = snapshot.for_bytes(&mut fetcher, all, |piece| bytes.extend_from_slice(piece));
        copied.unwrap_or_else(|error| panic!("{error}"));
        let took = begun.elapsed();
        let said_so = said.send(Said::Copied(took, blake3::hash(&bytes), snapshot.into_room()));
        let begun = Instant::now();
        let mut file = File::create(&path).expect("a file");
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .expect("room on the disk");
        let told = said_so.and_then(|()| said.send(Said::Written(begun.elapsed())));
        if told.is_err() {
            break;
        }
    }
    let _ = std::fs::remove_file(path);
}

/// Times of steps in order.
struct Steps(Vec<f64>);

impl Steps {
    fn new(times: Vec<Duration>) -> Self {
        let mut times: Vec<f64> = times.into_iter().map(ms).collect();
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    fn told(&self) -> String {
        let (first, last) = (self.0[0], self.0[self.0.len() - 1]);
        format!(
            "{} steps of {:.2} ms ({first:.2}–{last:.2})",
            self.0.len(),
            self.median()
        )
    }
}

/// Steps of one lane on a resident state.
struct Training {
    fixture: Fixture,
    pool: Pool,
    state: Resident,
    gradient: Buffer,
}

impl Training {
    fn new(preset: &str, device: &Device) -> Self {
        let fixture = Fixture::new(preset, None, 0, None);
        let fresh = State::fresh(&fixture.blip, fixture.spec.seed);
        Self {
            pool: Pool::on(device.clone()),
            state: Resident::of(&fresh, device),
            gradient: device.buffer(fixture.blip.student_layout.len()),
            fixture,
        }
    }

    /// A step as a rank makes it: it waits for the norm of its gradient, and commits without waiting.
    fn step(&mut self) -> Duration {
        let began = Instant::now();
        let Fixture {
            spec, blip, samples, ..
        } = &self.fixture;
        let step = lane_step(spec, self.state.step());
        let (seen, batch) = (self.state.seen(), samples.batch());
        let output = blip.lane(seen, batch, step, &mut self.pool, &mut self.gradient);
        let output = output.unwrap_or_else(|error| panic!("{error}"));
        let commit = commit_of(&output, self.gradient.span());
        let foreseen = self.state.foresee(blip, Objective::Pretrain, &spec.pretrain, commit);
        assert!(
            foreseen.is_ok_and(|foreseen| foreseen.gradient_norm.is_finite()),
            "a step that is finite"
        );
        self.state.commit(blip, Objective::Pretrain, &spec.pretrain, commit);
        began.elapsed()
    }

    /// Makes steps until the thread says something.
    fn until(&mut self, said: &Receiver<Said>) -> (Vec<Duration>, Said) {
        let mut times = Vec::new();
        loop {
            times.push(self.step());
            match said.try_recv() {
                Ok(word) => return (times, word),
                Err(mpsc::TryRecvError::Empty) => {}
                Err(mpsc::TryRecvError::Disconnected) => panic!("the thread failed"),
            }
        }
    }

    fn stored(&self) -> State {
        let mut stored = State::zeros(&self.fixture.blip);
        self.state.store(&mut stored).unwrap_or_else(|error| panic!("{error}"));
        stored
    }

    /// What a device without room for a snapshot waits; whether that copy is the state too.
    fn without_room(&self) -> bool {
        let (device, bytes) = (self.state.device(), self.state.num_bytes());
        let fetched = device.fetcher().and_then(|mut fetcher| {
            let (mark, began) = (device.mark()?, Instant::now());
            let mut copy = Vec::with_capacity(bytes);
            let piece = |piece: &[u8]| copy.extend_from_slice(piece);
            self.state.for_bytes((&mut fetcher, &mark), 0..bytes, piece)?;
            Ok((began.elapsed(), copy))
        });
        let (took, copy) = fetched.unwrap_or_else(|error| panic!("{error}"));
        println!(
            "without room for a snapshot a step waits for {:.0} ms less its own time",
            ms(took)
        );
        blake3::hash(&copy) == self.stored().digest()
    }
}
