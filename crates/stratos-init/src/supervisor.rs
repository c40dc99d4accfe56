//! The loop that PID 1 stays in: it waits for signals, services, clients and the kernel's log, all at once and never
//! longer than to the next deadline, and does what is due without waiting.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, wait};
use rustix::time::Timespec;
use stratos_api::node::{INIT_SOCKET, InitAnswer, InitRequest, InitStatus};
use stratos_sys::signals::SignalQueue;

use crate::boot::Node;
use crate::control::{self, Client, MOST_CLIENTS, Progress};
use crate::error::InitError;
use crate::phase::Outcome;
use crate::service::{Service, State};
use crate::{button, clock, config, files, kmsg, notify, patience, record};

/// How long the node may take to become ready before that counts as failed; it goes on trying.
pub const READY_DEADLINE: Duration = Duration::from_secs(180);
/// The longest that PID 1 sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Most bytes that are read of one service, and records of the kernel's, before others have their turn.
const READ: usize = 16 << 10;
const RECORDS: usize = 64;
const PAGE_KB: u64 = 4;

/// The signals that mean something to PID 1.
pub const SIGNALS: [Signal; 4] = [Signal::CHILD, Signal::TERM, Signal::INT, Signal::POWER];

/// What somebody wants of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Start again.
    Reboot,
    /// Switch off.
    PowerOff,
}

/// What PID 1 watches.
#[derive(Default)]
pub struct Supervisor {
    /// The services, in the order of their start.
    pub services: Vec<Service>,
    /// The signals that came.
    pub signals: Option<SignalQueue>,
    /// What somebody wants.
    pub wish: Option<Wish>,
    /// Whether services that end stay so.
    pub stopping: bool,
    notify: Option<OwnedFd>,
    listener: Option<UnixListener>,
    clients: Vec<Client>,
    kernel: Option<OwnedFd>,
    buttons: Vec<OwnedFd>,
}

/// Something that became readable or writable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Notify,
    Listener,
    Client(usize),
    Service(usize),
    Button(usize),
    Kernel,
}

impl Supervisor {
    fn sources(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let mut sources = Vec::with_capacity(4 + self.clients.len() + self.services.len());
        let mut add = |source, fd, flags| sources.push((source, fd, flags));
        if let Some(signals) = &self.signals {
            add(Source::Signals, signals.as_fd(), PollFlags::IN);
        }
        if let Some(notify) = &self.notify {
            add(Source::Notify, notify.as_fd(), PollFlags::IN);
        }
        if let Some(listener) = self.listener.as_ref().filter(|_| self.clients.len() < MOST_CLIENTS) {
            add(Source::Listener, listener.as_fd(), PollFlags::IN);
        }
        if let Some(kernel) = &self.kernel {
            add(Source::Kernel, kernel.as_fd(), PollFlags::IN);
        }
        for (index, button) in self.buttons.iter().enumerate() {
            add(Source::Button(index), button.as_fd(), PollFlags::IN);
        }
        for (index, client) in self.clients.iter().enumerate() {
            let flags = if client.has_answer() { PollFlags::OUT } else { PollFlags::IN };
            add(Source::Client(index), client.as_fd(), flags);
        }
        for (index, service) in self.services.iter().enumerate() {
            if let Some(output) = &service.output {
                add(Source::Service(index), output.as_fd(), PollFlags::IN);
            }
        }
        sources
    }

    /// Waits until something happens, at most until `deadline`.
    fn wait(&self, deadline: Duration) -> Vec<Source> {
        let sources = self.sources();
        let mut fds: Vec<_> =
            sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let time = Timespec::try_from(deadline.saturating_sub(clock::now())).ok();
        match poll(&mut fds, time.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Vec::new(),
            // No memory for the call, say. What is due is done anyway, and not in a busy loop.
            Err(_) => {
                patience::pause(Duration::from_millis(100));
                return Vec::new();
            }
        }
        let happened = sources.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        happened.map(|((source, ..), _)| *source).collect()
    }

    fn next_deadline(&self) -> Duration {
        let services = self.services.iter().filter_map(|service| match service.state {
            State::Waiting(_) if self.stopping => None,
            _ => service.next_deadline(),
        });
        let clients = self.clients.iter().map(Client::deadline);
        services.chain(clients).fold(clock::now() + LONGEST_SLEEP, Duration::min)
    }

    fn by_pid(&mut self, pid: Pid) -> Option<&mut Service> {
        self.services.iter_mut().find(|service| service.pid == Some(pid))
    }
}

/// Opens the sockets and starts every service, in its order. None waits for another.
///
/// # Errors
/// When a socket cannot be made. A service that cannot be started is tried again later.
pub fn start(node: &mut Node) -> Result<Outcome, InitError> {
    files::folder("/run/stratos")?;
    node.supervisor.kernel = kmsg::reader();
    node.supervisor.buttons = button::open_all();
    let notify = notify::open(Path::new(notify::SOCKET));
    let listener = control::open(Path::new(INIT_SOCKET));
    let units = node.units.clone();
    let services = units.into_iter().map(Service::new);
    node.supervisor.services.splice(0..0, services);
    node.supervisor.notify = Some(notify?);
    node.supervisor.listener = Some(listener?);
    due(node);
    let names: Vec<_> = node.supervisor.services.iter().map(|service| service.unit.name.as_str()).collect();
    Outcome::done(names.join(" "))
}

/// Waits until every essential service is ready.
///
/// # Errors
/// When that takes too long, or a shutdown comes first. The services go on.
pub fn await_ready(node: &mut Node) -> Result<Outcome, InitError> {
    let deadline = clock::now() + READY_DEADLINE;
    while node.record.ready_us.is_none() {
        if node.supervisor.wish.is_some() {
            return Err(InitError::invalid("the boot", "a shutdown was asked for"));
        }
        if clock::now() >= deadline {
            let late =
                node.supervisor.services.iter().filter(|s| s.unit.essential && s.state != State::Ready);
            let late: Vec<_> = late.map(|service| service.unit.name.as_str()).collect();
            return Err(InitError::Late {
                what: format!("readiness of {}", late.join(", ")),
                after: READY_DEADLINE,
            });
        }
        turn(node, deadline);
    }
    Outcome::done("every essential service")
}

/// Supervises until somebody wants the machine to end.
pub fn stay(node: &mut Node) -> Wish {
    loop {
        if let Some(wish) = node.supervisor.wish {
            return wish;
        }
        turn(node, Duration::MAX);
    }
}

/// One turn of the loop: waits for something, at most until `deadline`, and does all that is due.
pub fn turn(node: &mut Node, deadline: Duration) {
    let until = deadline.min(node.supervisor.next_deadline());
    let happened = node.supervisor.wait(until);
    for source in &happened {
        match *source {
            Source::Signals => signals(node),
            Source::Notify => ready_messages(node),
            Source::Listener => {
                if let Some(client) = node.supervisor.listener.as_ref().and_then(Client::accept) {
                    node.supervisor.clients.push(client);
                }
            }
            Source::Service(index) => read_output(node, index),
            Source::Kernel => read_kernel(node),
            Source::Button(index) => pressed(node, index),
            Source::Client(_) => {}
        }
    }
    clients(node, &happened);
    reap(node);
    due(node);
    tell_ready(node);
}

fn signals(node: &mut Node) {
    while let Some(number) = node.supervisor.signals.as_ref().and_then(SignalQueue::next) {
        let wish = match Signal::from_named_raw(number) {
            Some(Signal::INT) => Wish::Reboot,
            Some(Signal::TERM | Signal::POWER) => Wish::PowerOff,
            _ => continue,
        };
        node.supervisor.wish.get_or_insert(wish);
    }
}

fn ready_messages(node: &mut Node) {
    // A sender that floods has to wait for the next turn.
    for _ in 0..RECORDS {
        let Some((sender, ready)) = node.supervisor.notify.as_ref().and_then(notify::receive) else { return };
        let news = ready && node.supervisor.by_pid(sender).is_some_and(Service::ready);
        if news {
            let name = node.supervisor.by_pid(sender).map(|service| service.unit.name.clone());
            node.journal.note(&format!("{} is ready", name.unwrap_or_default()));
        }
    }
}

fn read_output(node: &mut Node, index: usize) {
    let mut bytes = [0; READ];
    let Some(service) = node.supervisor.services.get_mut(index) else { return };
    let Some(output) = &service.output else { return };
    let (name, lines, journal) = (&service.unit.name, &mut service.lines, &mut node.journal);
    match rustix::io::read(output, &mut bytes) {
        Ok(0) => {
            lines.end(|line| journal.line(name, line));
            service.output = None;
        }
        Ok(length) => lines.take(bytes.get(..length).unwrap_or_default(), |line| journal.line(name, line)),
        Err(_) => {}
    }
}

fn read_kernel(node: &mut Node) {
    let journal = &mut node.journal;
    if let Some(reader) = &node.supervisor.kernel {
        kmsg::take(reader, RECORDS, |line| journal.line("kernel", line));
    }
}

fn pressed(node: &mut Node, index: usize) {
    let Some(button) = node.supervisor.buttons.get(index) else { return };
    match button::was_pressed(button) {
        Some(true) => {
            node.journal.say("the power button was pressed");
            node.supervisor.wish.get_or_insert(Wish::PowerOff);
        }
        Some(false) => {}
        // What is gone would be ready to be read for ever.
        None => drop(node.supervisor.buttons.swap_remove(index)),
    }
}

fn clients(node: &mut Node, happened: &[Source]) {
    let now = clock::now();
    let mut clients = std::mem::take(&mut node.supervisor.clients);
    let mut index = 0;
    clients.retain_mut(|client| {
        let moved = happened.contains(&Source::Client(index));
        index += 1;
        let mut progress = if moved { client.go_on() } else { Progress::Waiting };
        if let Progress::Asks(request) = progress {
            progress = client.answer(&answer(node, request));
        }
        progress == Progress::Waiting && client.deadline() > now
    });
    node.supervisor.clients = clients;
}

fn answer(node: &mut Node, request: Result<InitRequest, String>) -> InitAnswer {
    let wish = match request {
        Ok(InitRequest::Status) => return InitAnswer::Status(Box::new(status(node))),
        Ok(InitRequest::Reboot) => Wish::Reboot,
        Ok(InitRequest::PowerOff) => Wish::PowerOff,
        Err(problem) => return InitAnswer::Refused(problem),
    };
    match *node.supervisor.wish.get_or_insert(wish) {
        asked if asked == wish => InitAnswer::ShuttingDown,
        _ => InitAnswer::Refused("a shutdown of the other kind is under way".to_owned()),
    }
}

fn status(node: &Node) -> InitStatus {
    InitStatus {
        boot: node.record.clone(),
        services: node.supervisor.services.iter().map(Service::status).collect(),
        abilities: node.abilities.clone(),
        init_rss_kb: rss_kb(),
    }
}

/// Resident memory of this process: the second number of /proc/self/statm, in pages.
fn rss_kb() -> u64 {
    let pages = files::read_value("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_KB
}

/// Collects every process that ended: services, and orphans that have become PID 1's.
fn reap(node: &mut Node) {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        let Some(index) = node.supervisor.services.iter().position(|service| service.pid == Some(pid)) else {
            continue;
        };
        // What it said last is in the pipe still.
        read_output(node, index);
        let stopping = node.supervisor.stopping;
        let Some(service) = node.supervisor.services.get_mut(index) else { continue };
        service.ended(status);
        let report = service.status();
        let exit = report.last_exit.unwrap_or_default();
        let message = format!("{} ended ({exit}), now {}", report.name, report.state);
        if stopping || service.on_console { node.journal.note(&message) } else { node.journal.say(&message) }
    }
}

/// Does what deadlines ask for: starts services, kills those that are late.
fn due(node: &mut Node) {
    let now = clock::now();
    let environment = config::environment(&node.config);
    for service in &mut node.supervisor.services {
        let name = service.unit.name.clone();
        if service.until.is_some_and(|until| until <= now) && service.pid.is_some() {
            node.journal.say(&format!("{name}: its time is up"));
            service.kill();
            service.until = None;
        }
        match service.state {
            State::Waiting(at) if at <= now && !node.supervisor.stopping => {
                if let Err(error) = service.start(&environment) {
                    node.journal.say(&error.chain());
                }
            }
            State::Starting(at) if at <= now => {
                node.journal.say(&format!("{name} is not ready in time and is killed"));
                // Its end is seen as any other's; until then, nothing more is due, and it is not ready.
                service.state = State::Starting(Duration::MAX);
                service.kill();
            }
            State::Stopping(at) if at <= now => {
                node.journal.say(&format!("{name} does not stop in time and is killed"));
                service.state = State::Stopping(now + Duration::from_secs(5));
                service.kill();
            }
            _ => {}
        }
    }
}

/// Says once that the node is ready.
fn tell_ready(node: &mut Node) {
    let essential = |service: &&Service| service.unit.essential;
    let mut services = node.supervisor.services.iter().filter(essential).peekable();
    if node.record.ready_us.is_some() || services.peek().is_none() {
        return;
    }
    if services.all(|service| service.state == State::Ready && service.pid.is_some()) {
        let ready = clock::boot_us();
        node.record.ready_us = Some(ready);
        let kernel = node.record.kernel_us / 1000;
        node.journal.say(&format!("ready in {} ms (kernel {kernel} ms)", ready / 1000));
        record::keep(node);
        for service in &mut node.supervisor.services {
            service.not_later();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_late_is_not_ready() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../distro/units/stratosd.toml");
        let unit = crate::unit::Unit::parse(&path, &std::fs::read_to_string(&path).unwrap()).unwrap();
        let mut service = Service::new(unit);
        service.state = State::Starting(Duration::ZERO);
        let mut node = Node::default();
        node.supervisor.services.push(service);
        due(&mut node);
        tell_ready(&mut node);
        assert_ne!(node.supervisor.services[0].state, State::Ready);
        assert_eq!(node.record.ready_us, None);
    }
}
