//! The cluster's processes, as the kernel lists them, and signals to them.

use super::faults::{Fault, Kind};
use crate::cluster::{Settings, send};
use std::fs;

/// A process that descends from this one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    /// Program and arguments.
    command: Vec<String>,
}

impl Process {
    /// Whether it is this program of the cluster's.
    fn is(&self, program: &str, argument: &str) -> bool {
        let name = self.command.first().and_then(|path| path.rsplit('/').next());
        name == Some(program) && self.command.get(1).is_some_and(|first| first == argument)
    }
}

/// Carries a fault out; none if there is nothing to hit just now. Returns the processes that were hit.
pub(super) fn strike(fault: Fault, settings: &Settings) -> Option<Vec<u32>> {
    let all = family(std::process::id());
    let (victims, signal) = victims(fault, &all, &settings.state_dir.to_string_lossy())?;
    victims.iter().for_each(|pid| send(*pid, signal));
    Some(victims)
}

/// Lets processes go on that were stopped.
pub(super) fn go_on(pids: &[u32]) {
    let all = family(std::process::id());
    let alive = pids.iter().filter(|pid| all.iter().any(|process| process.pid == **pid));
    alive.for_each(|pid| send(*pid, libc::SIGCONT));
}

/// Who is hit, and with what.
fn victims(fault: Fault, all: &[Process], state_dir: &str) -> Option<(Vec<u32>, i32)> {
    let choose = |found: Vec<&Process>| -> Option<u32> {
        let count = found.len() as u64;
        (count > 0).then(|| found[(fault.choice % count) as usize].pid)
    };
    let ranks = || {
        choose(
            all.iter()
                .filter(|process| process.is("medley-worker", "rank"))
                .collect(),
        )
    };
    let agent = || {
        choose(
            all.iter()
                .filter(|process| process.is("medley-worker", "agent"))
                .collect(),
        )
    };
    let coordinator = || all.iter().find(|process| process.is("medley-coordinator", "serve"));
    Some(match fault.kind {
        Kind::KillRank => (vec![ranks()?], libc::SIGKILL),
        Kind::HangRank => (vec![ranks()?], libc::SIGSTOP),
        Kind::KillNode => (vec![agent()?], libc::SIGKILL),
        Kind::PauseNode => {
            let agent = agent()?;
            let own = all
                .iter()
                .filter(|process| process.parent == agent || process.pid == agent);
            (own.map(|process| process.pid).collect(), libc::SIGSTOP)
        }
        Kind::KillCoordinator => (vec![coordinator()?.pid], libc::SIGKILL),
        Kind::KillDatabase => {
            let coordinator = coordinator()?.pid;
            let is_database = |process: &&Process| {
                let mut arguments = process.command.iter();
                process.parent == coordinator && arguments.any(|argument| argument.contains(state_dir))
            };
            (vec![all.iter().find(is_database)?.pid], libc::SIGKILL)
        }
    })
}

/// All processes that descend from `root`, parents first.
fn family(root: u32) -> Vec<Process> {
    let mut others: Vec<Process> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| look(entry.ok()?.file_name().to_str()?.parse().ok()?))
        .collect();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        let children: Vec<Process> = others.extract_if(.., |process| process.parent == parent).collect();
        parents.extend(children.iter().map(|child| child.pid));
        found.extend(children);
    }
    found.sort_by_key(|process| process.pid);
    found
}

/// A process as it is now; none if it is gone or ended.
fn look(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may itself hold any character.
    let (_, tail) = stat.rsplit_once(')')?;
    let mut fields = tail.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = command.split(|byte| *byte == 0).filter(|argument| !argument.is_empty());
    Some(Process {
        pid,
        parent: fields.next()?.parse().ok()?,
        command: arguments
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::thread;
    use std::time::{Duration, Instant};

    fn process(pid: u32, parent: u32, command: &[&str]) -> Process {
        Process {
            pid,
            parent,
            command: command.iter().map(|argument| (*argument).to_owned()).collect(),
        }
    }

    #[test]
    fn a_fault_hits_the_processes_it_names_and_no_others() {
        let all = [
            process(10, 1, &["/x/medley-coordinator", "serve", "--state-dir", "/s"]),
            process(11, 10, &["/usr/lib/postgres", "-D", "/s/postgres"]),
            process(20, 1, &["/x/medley-worker", "agent", "--name", "node-1"]),
            process(21, 20, &["/x/medley-worker", "rank"]),
            process(22, 20, &["/x/medley-worker", "rank"]),
        ];
        let hit = |kind: Kind| {
            let fault = Fault {
                kind,
                lasts: None,
                choice: 5,
            };
            victims(fault, &all, "/s").unwrap()
        };
        assert_eq!(hit(Kind::KillRank), (vec![22], libc::SIGKILL));
        assert_eq!(hit(Kind::HangRank), (vec![22], libc::SIGSTOP));
        assert_eq!(hit(Kind::KillNode), (vec![20], libc::SIGKILL));
        assert_eq!(hit(Kind::PauseNode), (vec![20, 21, 22], libc::SIGSTOP));
        assert_eq!(hit(Kind::KillCoordinator), (vec![10], libc::SIGKILL));
        assert_eq!(hit(Kind::KillDatabase), (vec![11], libc::SIGKILL));
    }

    #[test]
    fn descendants_are_found_with_their_commands() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        // A process has no arguments for a moment while it begins.
        let is_there = || {
            let mut found = family(std::process::id()).into_iter();
            found.any(|process| process.pid == child.id() && process.command == ["sleep", "60"])
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_there() {
            assert!(Instant::now() < deadline, "the child is not found");
            thread::sleep(Duration::from_millis(1));
        }
        send(child.id(), libc::SIGKILL);
        child.wait().unwrap();
    }
}
