//! The service `stratos-init time`: keeps the wall clock right. A machine that was suspended, or restored from a
//! snapshot, has a clock that stood still meanwhile; the hardware's went on. NTP servers, where configured, say more
//! exactly.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::thread::CapabilitySet;

use crate::error::InitError;
use crate::{clock, identity, network, notify, patience, sntp};

/// How often the clocks are compared.
const LOOK: Duration = Duration::from_secs(2);
/// How far they may part: the hardware's has whole seconds, and reading takes a moment.
const TOLERANCE_MS: i64 = 2500;
/// First and longest time between questions to servers; first after one that was not answered.
const ASK_FIRST: Duration = Duration::from_secs(8);
const ASK_LONGEST: Duration = Duration::from_secs(1024);
/// How long a server has to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// A clock that is wrong by more is set, by less it is moved slowly.
const STEP_MS: u64 = 400;

/// The service.
///
/// # Errors
/// When its rights cannot be dropped, or the clock cannot be set: PID 1 starts it again.
pub fn serve() -> Result<(), InitError> {
    network::set_process_name(c"stratos-time");
    network::keep_only(CapabilitySet::SYS_TIME)?;
    let servers = network::configuration().time.servers;
    notify::ready()?;
    let mut hardware = Comparison::default();
    let mut wait = ASK_FIRST;
    let mut next = clock::now();
    loop {
        if let (Some(now), wall) = (identity::hardware_ms(), clock::wall_ms())
            && let Some(step) = hardware.step(now, wall)
        {
            adjust(step)?;
            println!("the clock was {step} ms behind the hardware's: set");
            // Restored elsewhere or much later: ask soon.
            (wait, next) = (ASK_FIRST, clock::now());
        }
        if !servers.is_empty() && clock::now() >= next {
            wait = match ask_any(&servers) {
                Some(offset) => {
                    adjust(offset)?;
                    println!("the clock was {offset} ms behind: corrected");
                    hardware = Comparison::default();
                    (wait * 2).min(ASK_LONGEST)
                }
                None => ASK_FIRST,
            };
            next = clock::now() + wait;
        }
        patience::pause(LOOK);
    }
}

/// How the hardware's clock and ours stood when they were first compared. What a server said meanwhile is ours alone,
/// so only a change of the difference tells that our clock stood still.
#[derive(Debug, Default)]
struct Comparison(Option<i64>);

impl Comparison {
    /// By how much our clock has to be set forwards, if it stood still since the last comparison.
    fn step(&mut self, hardware: u64, wall: u64) -> Option<i64> {
        let difference = i64::try_from(hardware).ok()? - i64::try_from(wall).ok()?;
        let change = difference - *self.0.get_or_insert(difference);
        (change.abs() > TOLERANCE_MS).then_some(change)
    }
}

/// Moves our clock by some milliseconds: slowly when that is possible.
fn adjust(by: i64) -> Result<(), InitError> {
    let distance = by.unsigned_abs();
    if distance <= STEP_MS {
        return stratos_sys::clock::slew(by > 0, Duration::from_millis(distance))
            .map_err(|source| InitError::system("move the clock", source));
    }
    let right = clock::wall_ms().saturating_add_signed(by);
    if right < identity::EARLIEST_MS {
        println!("{} is before this system was made: the clock is left alone", clock::rfc3339(right));
        return Ok(());
    }
    clock::set_wall_ms(right)
}

/// The first answer of a server.
fn ask_any(servers: &[Ipv4Addr]) -> Option<i64> {
    servers.iter().find_map(|server| ask(*server).ok().flatten())
}

fn ask(server: Ipv4Addr) -> std::io::Result<Option<i64>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // Only this server's datagrams come.
    socket.connect((server, sntp::PORT))?;
    socket.set_read_timeout(Some(ANSWER))?;
    let mut cookie = [0; 8];
    getrandom(&mut cookie, GetRandomFlags::INSECURE)?;
    let cookie = u64::from_ne_bytes(cookie);
    let sent = clock::wall_ms();
    socket.send(&sntp::question(cookie))?;
    let mut bytes = [0; sntp::BYTES];
    let length = socket.recv(&mut bytes)?;
    let received = clock::wall_ms();
    Ok(sntp::offset_ms(bytes.get(..length).unwrap_or_default(), cookie, sent, received))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_stood_still_is_noticed_once_it_is_set() {
        let mut comparison = Comparison::default();
        // Our clock is right by a server; the hardware's is an hour off.
        assert_eq!(comparison.step(3_600_000, 0), None);
        assert_eq!(comparison.step(3_602_000, 1_400), None);
        assert_eq!(comparison.step(4_602_000, 2_000), Some(1_000_000));
        assert_eq!(comparison.step(4_604_000, 1_004_000), None);
    }
}
