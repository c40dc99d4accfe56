//! SNTP (RFC 4330): the question of a client, and what a server's answer says of our clock. Pure.

/// Bytes of a message; what comes behind it is left alone.
pub const BYTES: usize = 48;
/// The server's port.
pub const PORT: u16 = 123;
/// Milliseconds from 1900 to 1970.
const EPOCH_MS: i128 = 2_208_988_800_000;
/// An era of NTP, after which its seconds begin anew: in 2036.
const ERA_MS: i128 = (1 << 32) * 1000;

/// The question. `cookie` comes back in the answer: who cannot see the question cannot answer it.
pub fn question(cookie: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    // No warning, version 4, a client's.
    bytes[0] = 0b00_100_011;
    if let Some(place) = bytes.get_mut(40..48) {
        place.copy_from_slice(&cookie.to_be_bytes());
    }
    bytes
}

/// By how many milliseconds our clock is behind (positive) or ahead, from an answer to the question with `cookie`,
/// sent and received at these milliseconds since 1970 on our clock. `None` when it is no such answer, or the server
/// does not know the time.
pub fn offset_ms(answer: &[u8], cookie: u64, sent: u64, received: u64) -> Option<i64> {
    let number = |at: usize| answer.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
    let (first, stratum) = (*answer.first()?, *answer.get(1)?);
    let (warning, mode) = (first >> 6, first & 7);
    if answer.len() < BYTES || mode != 4 || warning == 3 || !(1..=15).contains(&stratum) {
        return None;
    }
    let (came, left) = (number(32)?, number(40)?);
    if number(24)? != cookie || came == 0 || left == 0 {
        return None;
    }
    let (sent, received) = (i128::from(sent), i128::from(received));
    let offset = ((unix_ms(came) - sent) + (unix_ms(left) - received)) / 2;
    i64::try_from(offset).ok()
}

/// An NTP time as milliseconds since 1970, in the era after our first, when it would be in the distant past else.
fn unix_ms(time: u64) -> i128 {
    const YEAR_2020: i128 = 1_577_836_800_000;
    let (seconds, fraction) = (i128::from(time >> 32), i128::from(time & 0xffff_ffff));
    let ms = seconds * 1000 + ((fraction * 1000) >> 32) - EPOCH_MS;
    if ms < YEAR_2020 { ms + ERA_MS } else { ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: u64 = 0x0123_4567_89ab_cdef;
    /// 2024-01-01 on our clock.
    const NOW: u64 = 1_704_067_200_000;

    fn ntp(unix_ms: u64) -> u64 {
        let ms = (i128::from(unix_ms) + EPOCH_MS) % ERA_MS;
        (((ms / 1000) << 32) | (((ms % 1000) << 32) / 1000)) as u64
    }

    fn answer(came: u64, left: u64) -> Vec<u8> {
        let mut bytes = vec![0b00_100_100, 2];
        bytes.resize(24, 0);
        for number in [COOKIE, came, left] {
            bytes.extend(number.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn the_way_there_and_back_is_taken_out() {
        let bytes = answer(ntp(NOW + 5_020), ntp(NOW + 5_020));
        let offset = offset_ms(&bytes, COOKIE, NOW, NOW + 40).unwrap();
        assert!((offset - 5_000).abs() <= 1, "{offset}");
        let ahead = offset_ms(&answer(ntp(NOW - 1_000), ntp(NOW - 1_000)), COOKIE, NOW, NOW).unwrap();
        assert!((ahead + 1_000).abs() <= 1, "{ahead}");
    }

    #[test]
    fn the_year_2036_is_survived() {
        let later = 2_100_000_000_000;
        let offset = offset_ms(&answer(ntp(later), ntp(later)), COOKIE, later - 7, later - 7).unwrap();
        assert!((offset - 7).abs() <= 1, "{offset}");
    }

    #[test]
    fn the_question_is_a_clients() {
        let question = question(COOKIE);
        assert_eq!(question[0], 0x23);
        assert_eq!(question[40..], COOKIE.to_be_bytes());
    }

    #[test]
    fn other_answers_are_left_alone() {
        let good = answer(ntp(NOW), ntp(NOW));
        assert!(offset_ms(&good, COOKIE, NOW, NOW).is_some());
        assert_eq!(offset_ms(&good, COOKIE + 1, NOW, NOW), None);
        for (at, byte) in [(0, 0b11_100_100), (0, 0b00_100_011), (1, 0), (1, 16)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(offset_ms(&bad, COOKIE, NOW, NOW), None);
        }
        assert_eq!(offset_ms(&answer(0, ntp(NOW)), COOKIE, NOW, NOW), None);
        for length in 0..BYTES {
            assert_eq!(offset_ms(&good[..length], COOKIE, NOW, NOW), None);
        }
    }
}
