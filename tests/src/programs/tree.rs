//! Processes by descent, as the kernel knows them: a test ends those that it has started and no others.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

/// Time for killed processes to be gone.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// Time between looks at processes, which tell nobody but their parent that they end.
const LOOK: Duration = Duration::from_millis(10);

/// A process. The time of its start tells it from a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The first 15 bytes of its program's name.
    pub name: String,
    /// The number of the process that started it.
    pub parent: u32,
    started: u64,
    is_dead: bool,
}

/// Kills a process with all its descendants, as a loss of power would, and waits until they are gone. Returns them.
///
/// # Panics
/// When one does not end.
pub fn kill(root: u32) -> Vec<Process> {
    let mut doomed: BTreeMap<u32, Process> = BTreeMap::new();
    // Stopped first, so that nobody starts another one or mourns one that is gone.
    loop {
        let fresh: Vec<Process> = family(root)
            .into_iter()
            .filter(|process| !doomed.contains_key(&process.pid))
            .collect();
        if fresh.is_empty() {
            break;
        }
        signal("-STOP", fresh.iter());
        doomed.extend(fresh.into_iter().map(|process| (process.pid, process)));
    }
    signal("-KILL", doomed.values());
    let deadline = Instant::now() + END_PATIENCE;
    while doomed.values().any(is_alive) {
        assert!(Instant::now() < deadline, "some of {doomed:?} survive being killed");
        std::thread::sleep(LOOK);
    }
    doomed.into_values().collect()
}

/// The processes that a process has started and that have not ended, oldest first.
pub fn children(parent: u32) -> Vec<Process> {
    let mut children: Vec<Process> = living()
        .into_iter()
        .filter(|process| process.parent == parent)
        .collect();
    children.sort_by_key(|process| process.started);
    children
}

/// Sends a signal to one process.
pub fn tell(pid: u32, name: &str) {
    let _ = shells_kill().args([name, &pid.to_string()]).status();
}

/// The process and its descendants, parents first.
pub fn family(root: u32) -> Vec<Process> {
    let mut others = living();
    let mut found: Vec<Process> = others.extract_if(.., |process| process.pid == root).collect();
    let mut next = 0;
    while next < found.len() {
        let parent = found[next].pid;
        found.extend(others.extract_if(.., |process| process.parent == parent));
        next += 1;
    }
    found
}

fn living() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").expect("the kernel shows its processes");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(look).filter(|process| !process.is_dead).collect()
}

fn is_alive(process: &Process) -> bool {
    look(process.pid).is_some_and(|now| now.started == process.started && !now.is_dead)
}

/// A process as it is now; none if it is gone.
fn look(pid: u32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may itself hold any of these characters.
    let (head, tail) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some(Process {
        pid,
        name: head.split_once('(')?.1.to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        is_dead: matches!(*fields.first()?, "Z" | "X"),
    })
}

/// The shell's own: the program of that name is not on every machine.
fn shells_kill() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "kill \"$@\"", "kill"]);
    command
}

fn signal<'a>(name: &str, processes: impl Iterator<Item = &'a Process>) {
    let pids = processes.map(|process| process.pid.to_string());
    // One that has just ended makes it complain.
    let _ = shells_kill()
        .arg(name)
        .args(pids)
        .stderr(std::process::Stdio::null())
        .status();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    #[test]
    fn descendants_die_with_the_root_and_nobody_else_does() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command
                .args(["-c", script])
                .stdout(Stdio::piped())
                .spawn()
                .expect("there is a shell")
        };
        let mut bystander = shell("exec sleep 60");
        let mut root = shell("(trap '' TERM INT; sleep 60 & echo ready; wait) & wait");
        let mut line = String::new();
        let out = root.stdout.take().expect("it was asked for");
        BufReader::new(out)
            .read_line(&mut line)
            .expect("it says that it is ready");
        let killed = kill(root.id());
        assert_eq!(killed.len(), 3, "{killed:?}");
        assert!(killed.iter().all(|process| !is_alive(process)));
        assert!(look(bystander.id()).is_some_and(|process| !process.is_dead));
        bystander.kill().and_then(|()| bystander.wait()).expect("it still ran");
        root.wait().expect("it was a child");
    }
}
