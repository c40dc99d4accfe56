//! What the sandbox reads of tenants and of operators.

use std::net::Ipv4Addr;

use stratos_sandbox::egress::dns;
use stratos_sandbox::seccomp::SeccompFilter;

/// A datagram to the gateway's DNS.
pub fn dns(data: &[u8]) {
    let mut asked = 0;
    let reply = dns::answer(data, |name| {
        asked += 1;
        assert!(!name.is_empty() && name.len() <= 253, "{name:?}");
        assert!(name.split('.').all(|label| (1..=63).contains(&label.len())), "{name:?}");
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        assert!(name.bytes().all(plain), "{name:?}");
        name.len().is_multiple_of(2).then_some(Ipv4Addr::new(198, 18, 1, 0))
    });
    assert!(asked <= 1);
    let Some(reply) = reply else { return };
    // No amplification, no answer to an answer, and the client's own id and question.
    assert!(reply.len() <= data.len() + 16);
    assert_eq!(reply[..2], data[..2]);
    assert_eq!(dns::answer(&reply, |_| panic!("an answer is answered")), None);
    let questions = u16::from_be_bytes([reply[4], reply[5]]);
    let answers = u16::from_be_bytes([reply[6], reply[7]]);
    assert!(questions <= 1 && answers <= questions);
    let end = reply.len() - 16 * usize::from(answers);
    assert_eq!(reply[12..end], data[12..end]);
}

/// A seccomp profile: what it compiles to is a program that the kernel accepts and that ends in an answer.
pub fn seccomp(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(filter) = SeccompFilter::from_json(text) else { return };
    let program = filter.instructions();
    assert!((1..=4096).contains(&program.len()));
    for (at, instruction) in program.iter().enumerate() {
        let lands = |distance: u32| {
            let target = at + 1 + usize::try_from(distance).expect("32 bits");
            assert!(target < program.len(), "{at}: {instruction:?} leads out");
        };
        match instruction.code {
            // A word of struct seccomp_data, which has 64 bytes.
            0x20 => assert!(instruction.k % 4 == 0 && instruction.k < 64, "{at}: {instruction:?}"),
            0x54 => {}
            0x05 => lands(instruction.k),
            0x15 | 0x35 => {
                lands(instruction.jt.into());
                lands(instruction.jf.into());
            }
            0x06 => {
                let answers = match instruction.k & 0xffff_0000 {
                    0x0005_0000 => instruction.k & 0xffff != 0,
                    0x7fff_0000 | 0x8000_0000 => instruction.k & 0xffff == 0,
                    _ => false,
                };
                assert!(answers, "{at}: {instruction:?}");
            }
            _ => panic!("{at}: {instruction:?} is unknown"),
        }
    }
    assert_eq!(program.last().map(|last| last.code), Some(0x06));
}
