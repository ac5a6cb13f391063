//! Ranks as threads, connected over loopback.

use super::*;
use medley_protocol::ids::StageId;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const LIMITS: Limits = Limits {
    frame_bytes: 1 << 20,
    waiting_bytes: 8 << 20,
};

fn timing() -> Timing {
    Timing {
        connect: Duration::from_secs(20),
        hello: Duration::from_millis(300),
        beat: Duration::from_millis(20),
        silence: Duration::from_millis(400),
        step: Duration::from_secs(20),
    }
}

/// What a rank holds: the first one nothing.
fn memory(rank: u32) -> Option<Memory> {
    let prepared = rank == 2;
    (rank > 0).then_some(Memory { committed: 5, prepared })
}

struct Site {
    listeners: Vec<TcpListener>,
    addresses: Vec<String>,
    stage: StageId,
}

impl Site {
    fn new(world: u32) -> Self {
        let listeners: Vec<_> = (0..world).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        Self {
            addresses: listeners.iter().map(address).collect(),
            listeners,
            stage: StageId::generate(),
        }
    }

    fn hello(&self, rank: u32) -> Hello {
        Hello {
            stage: self.stage,
            generation: 3,
            secret: "s3cret".into(),
            memory: memory(rank),
            rank,
            world: self.listeners.len() as u32,
            fingerprint: "f".into(),
        }
    }

    fn join(&self, hello: &Hello, timing: Timing) -> io::Result<Mesh> {
        self.join_unless(hello, timing, &Fence::default())
    }

    fn join_unless(&self, hello: &Hello, timing: Timing, fence: &Fence) -> io::Result<Mesh> {
        let listener = &self.listeners[hello.rank as usize];
        Mesh::connect(listener, hello, &self.addresses, (timing, LIMITS), fence, &|_| ())
    }

    /// Connects to rank 0 as `hello` says.
    fn connect(&self, hello: &Hello) -> io::Result<TcpStream> {
        let call = Call::new(hello, timing(), &Fence::default());
        call.try_once(0, &self.addresses[0]).map(|(_, stream)| stream)
    }

    /// Connects everyone and runs `f` as each rank.
    fn run<T: Send>(&self, f: impl Fn(u32, Mesh) -> T + Sync) -> Vec<T> {
        let run = |rank| f(rank, self.join(&self.hello(rank), timing()).unwrap());
        thread::scope(|scope| {
            let ranks: Vec<_> = (0..self.listeners.len() as u32)
                .map(|rank| scope.spawn(move || run(rank)))
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }
}

fn tag(exchange: u64) -> Tag {
    Tag {
        exchange,
        ..Tag::plain(Kind::Share)
    }
}

#[test]
fn everyone_reaches_everyone() {
    let heard = Site::new(4).run(|rank, mesh| {
        for to in mesh.others() {
            mesh.send(to, tag(0), Bytes::from(vec![rank as u8; 100_000]));
        }
        let heard: Vec<u8> = mesh
            .others()
            .map(|from| mesh.receive(from, tag(0)).unwrap()[99_999])
            .collect();
        mesh.leave(Duration::from_secs(20));
        heard
    });
    assert_eq!(heard, [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]);
}

#[test]
fn everyone_learns_what_everyone_holds_in_memory() {
    let heard = Site::new(3).run(|_, mesh| {
        let memories = mesh.memories().to_vec();
        mesh.leave(Duration::from_secs(20));
        memories
    });
    for memories in heard {
        assert_eq!(memories, [memory(0), memory(1), memory(2)]);
    }
}

#[test]
fn a_connection_that_was_given_up_before_it_was_accepted_is_not_taken_for_one_that_lives() {
    let site = Site::new(2);
    let mut dead = TcpStream::connect(&site.addresses[0]).unwrap();
    let hello = serde_json::to_vec(&site.hello(1)).unwrap();
    frame::write(&mut dead, Tag::plain(Kind::Hello), &hello).unwrap();
    drop(dead);
    site.run(|rank, mesh| {
        mesh.send(1 - rank, tag(0), Bytes::from(vec![rank as u8]));
        assert_eq!(mesh.receive(1 - rank, tag(0)).unwrap(), [1 - rank as u8]);
        mesh.leave(Duration::from_secs(20));
    });
}

#[test]
fn members_of_a_generation_that_is_called_off_stop_waiting_for_each_other() {
    let site = Site::new(3);
    let fence = Fence::default();
    let errors = thread::scope(|scope| {
        let waiting: Vec<_> = [0, 2]
            .into_iter()
            .map(|rank| {
                let (site, fence) = (&site, &fence);
                scope.spawn(move || site.join_unless(&site.hello(rank), timing(), fence))
            })
            .collect();
        fence.raise(4);
        let ended = waiting.into_iter().map(|waiting| waiting.join().unwrap().unwrap_err());
        ended.map(|error| error.to_string()).collect::<Vec<_>>()
    });
    assert!(errors[0].contains("another generation has begun"), "{errors:?}");
}

#[test]
fn who_is_missing_is_known_and_nobody_waits_for_a_try_that_gets_no_answer() {
    let site = Site::new(4);
    // Rank 0 never says hello, although its listener takes connections in.
    let patient = Timing {
        hello: Duration::from_mins(5),
        ..timing()
    };
    let fence = Fence::default();
    let (tell, told) = mpsc::channel();
    let error = thread::scope(|scope| {
        scope.spawn(|| site.join_unless(&site.hello(1), patient, &fence));
        scope.spawn(|| site.join_unless(&site.hello(3), patient, &fence));
        let (site, fence_of_2) = (&site, &fence);
        let joining = scope.spawn(move || {
            let tell = |missing: &BTreeSet<u32>| drop(tell.send(missing.clone()));
            let (listener, hello) = (&site.listeners[2], site.hello(2));
            Mesh::connect(listener, &hello, &site.addresses, (patient, LIMITS), fence_of_2, &tell)
        });
        let missed = told.iter().find(|missing| missing.len() == 1);
        assert_eq!(missed, Some(BTreeSet::from([0])));
        let called = Instant::now();
        fence.raise(4);
        let error = joining.join().unwrap().unwrap_err();
        assert!(
            called.elapsed() < Duration::from_secs(20),
            "tries go on for five minutes"
        );
        error.to_string()
    });
    assert_eq!(error, "no connection with rank 0: another generation has begun");
}

#[test]
fn a_rank_that_computes_for_long_is_not_silent() {
    Site::new(2).run(|rank, mesh| {
        if rank == 0 {
            // A step that takes longer than the deadline for silence.
            let busy = Instant::now();
            while busy.elapsed() < timing().silence * 2 {
                std::hint::spin_loop();
            }
            mesh.send(1, tag(0), Bytes::from(vec![7]));
        } else {
            assert_eq!(mesh.receive(0, tag(0)).unwrap(), [7]);
        }
        mesh.leave(Duration::from_secs(20));
    });
}

#[test]
fn a_closed_connection_wakes_everyone_at_once() {
    let started = Instant::now();
    Site::new(3).run(|rank, mesh| {
        if rank == 2 {
            mesh.close();
            return;
        }
        let lost = mesh.receive(1 - rank, tag(0)).unwrap_err();
        assert!(lost.rank == 2 || lost.why.contains("ended"), "{lost}");
        mesh.close();
    });
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_silent_peer_is_lost_although_its_connection_stands() {
    let site = Site::new(2);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Says hello and then nothing, like a machine that was cut off.
            let stream = site.connect(&site.hello(1)).unwrap();
            while !done.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            drop(stream);
        });
        let mesh = site.join(&site.hello(0), timing()).unwrap();
        let lost = mesh.receive(1, tag(0)).unwrap_err();
        done.store(true, Ordering::Relaxed);
        assert!(lost.why.contains("silent"), "{lost}");
    });
}

#[test]
fn strangers_are_turned_away_and_members_are_not_kept_out_by_them() {
    let site = Site::new(2);
    let refusals = thread::scope(|scope| {
        let member = scope.spawn(|| site.join(&site.hello(0), timing()));
        let strangers: Vec<Hello> = vec![
            Hello {
                secret: "guess".into(),
                ..site.hello(1)
            },
            Hello {
                generation: 2,
                ..site.hello(1)
            },
            Hello {
                fingerprint: "other build".into(),
                ..site.hello(1)
            },
            Hello {
                rank: 0,
                ..site.hello(1)
            },
        ];
        let mut refusals = Vec::new();
        for hello in strangers {
            let error = site.connect(&hello).unwrap_err();
            refusals.push(error.to_string());
        }
        let mut mute = TcpStream::connect(&site.addresses[0]).unwrap();
        mute.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(
            mute.read(&mut [0]).unwrap(),
            0,
            "a stranger that says nothing is dropped"
        );
        site.join(&site.hello(1), timing()).unwrap();
        member.join().unwrap().unwrap();
        refusals
    });
    for (refusal, word) in refusals
        .iter()
        .zip(["secret", "generation 2", "other build", "does not connect"])
    {
        assert!(refusal.contains(word), "{refusal}");
    }
}

#[test]
fn connections_that_cannot_be_taken_end_no_generation() {
    let mut site = Site::new(2);
    // Every attempt to take a connection from it fails, and not because there is none.
    let deaf = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    site.listeners[0] = TcpListener::from(std::os::fd::OwnedFd::from(deaf));
    let timing = Timing {
        connect: Duration::from_millis(50),
        ..timing()
    };
    let error = site.join(&site.hello(0), timing).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
}

#[test]
fn a_member_that_never_comes_is_named() {
    let site = Site::new(3);
    let timing = Timing {
        connect: Duration::from_millis(50),
        ..timing()
    };
    let error = site.join(&site.hello(0), timing).unwrap_err();
    assert!(error.to_string().contains("rank 1, 2"), "{error}");
}
