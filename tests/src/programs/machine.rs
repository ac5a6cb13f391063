//! Machines of a network that a test can take apart: network namespaces around a router.
//!
//! Each machine has one cable, to the router, and reaches the others through it. What is lost is lost in the router, so a
//! machine cannot know: a cable that is pulled would be noticed at once. Only root can make namespaces.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

/// A machine.
#[derive(Debug)]
pub struct Machine {
    /// Its address.
    pub address: String,
    namespace: String,
}

/// A router and its machines. Dropping it removes them.
#[derive(Debug)]
pub struct Network {
    router: String,
    machines: Vec<String>,
}

impl Machine {
    /// A program that is to run on it.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// Moves the present thread to it, and all that it will start.
    ///
    /// # Panics
    /// When that is not allowed.
    pub fn enter(&self) {
        let path = Path::new("/run/netns").join(&self.namespace);
        let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        #[expect(unsafe_code, reason = "the standard library does not know namespaces")]
        // Sound: the call reads nothing but its two numbers, and the file is open.
        let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(entered, 0, "{}: {}", path.display(), std::io::Error::last_os_error());
    }
}

impl Network {
    /// A router without machines; none, with the reason on standard error, where that cannot be had.
    pub fn new() -> Option<Self> {
        let router = format!("medley-{}-r", std::process::id());
        if !tried("ip", &["netns", "add", &router]) {
            eprintln!("skipped: only root can make network namespaces, with the command ip (Debian: iproute2)");
            return None;
        }
        let network = Self {
            router,
            machines: Vec::new(),
        };
        network.ip(&["link", "set", "lo", "up"]);
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        run("ip", &["netns", "exec", &network.router, "sh", "-c", forward]);
        Some(network)
    }

    /// One more machine.
    pub fn machine(&mut self) -> Machine {
        let number = self.machines.len() + 1;
        let namespace = format!("medley-{}-{number}", std::process::id());
        let (address, gateway) = (format!("10.78.{number}.2"), format!("10.78.{number}.1"));
        let cable = format!("eth{number}");
        run("ip", &["netns", "add", &namespace]);
        self.machines.push(namespace.clone());
        let far = ["type", "veth", "peer", "name", "eth0", "netns", &namespace];
        run(
            "ip",
            &[&["link", "add", &cable, "netns", &self.router][..], &far].concat(),
        );
        self.ip(&["address", "add", &format!("{gateway}/24"), "dev", &cable]);
        self.ip(&["link", "set", &cable, "up"]);
        let on_machine = |arguments: &[&str]| run("ip", &[&["-n", &namespace], arguments].concat());
        on_machine(&["link", "set", "lo", "up"]);
        on_machine(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
        on_machine(&["link", "set", "eth0", "up"]);
        on_machine(&["route", "add", "default", "via", &gateway]);
        Machine { address, namespace }
    }

    /// Loses everything that one machine sends to another. What comes back arrives.
    pub fn lose(&self, from: &Machine, to: &Machine) {
        self.rule("add", from, to);
    }

    /// Ends [`lose`](Self::lose).
    pub fn heal(&self, from: &Machine, to: &Machine) {
        self.rule("del", from, to);
    }

    /// Loses everything between two machines.
    pub fn cut(&self, one: &Machine, two: &Machine) {
        self.lose(one, two);
        self.lose(two, one);
    }

    /// Ends [`cut`](Self::cut).
    pub fn join(&self, one: &Machine, two: &Machine) {
        self.heal(one, two);
        self.heal(two, one);
    }

    /// Makes the way to a machine long and narrow; false, with the reason on standard error, where the kernel cannot.
    pub fn slow(&self, to: &Machine, delay: &str, rate: &str) -> bool {
        let number = to.address.split('.').nth(2).expect("an address has four parts");
        let cable = format!("eth{number}");
        let discipline = ["root", "netem", "delay", delay, "rate", rate];
        let arguments = [&["-n", &self.router, "qdisc", "add", "dev", &cable][..], &discipline].concat();
        let is_slow = tried("tc", &arguments);
        if !is_slow {
            eprintln!("skipped: the kernel has no netem (Debian, Ubuntu: linux-modules-extra), or tc is missing");
        }
        is_slow
    }

    fn rule(&self, what: &str, from: &Machine, to: &Machine) {
        self.ip(&["rule", what, "from", &from.address, "to", &to.address, "blackhole"]);
    }

    fn ip(&self, arguments: &[&str]) {
        run("ip", &[&["-n", &self.router], arguments].concat());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self.machines.iter().chain([&self.router]) {
            tried("ip", &["netns", "del", namespace]);
        }
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn tried(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
