//! What PID 1 and its services read: tables of firmware and disks, documents of the operator, datagrams of a network.

use std::path::Path;

use stratos_init::cmdline::CommandLine;
use stratos_init::dhcp::{self, Answer, Ask, Client, Lease};
use stratos_init::gpt::{BLOCK, HEAD_BYTES, TAIL_BYTES, Table};
use stratos_init::unit::Unit;
use stratos_init::verity::Superblock;
use stratos_init::{control, nocloud, smbios, sntp, sysctl, user_data, verity};
use stratos_types::{Digest, NodeConfig};

/// SMBIOS tables. What is found in them lies in them.
pub fn boot_smbios(data: &[u8]) {
    if let Ok(Some(text)) = smbios::credential(data, "stratos.config") {
        assert!(text.len() <= data.len());
        // A configuration from there is as untrusted as the tables.
        boot_config(text.as_bytes());
    }
}

/// Partition tables, at a disk's start and at its end.
pub fn boot_gpt(data: &[u8]) {
    // A disk on which the bytes are all there is, and one that is larger.
    for blocks in [data.len() as u64 / BLOCK, 1 << 20] {
        if let Ok(table) = Table::parse(data, blocks) {
            check_table(&table, blocks);
        }
        let tail = data.get(data.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
        if let Ok(table) = Table::parse_backup(tail, blocks) {
            check_table(&table, blocks);
            let (at, bytes) = table.as_first();
            let head = [vec![0; at as usize], bytes].concat();
            let repaired = Table::parse(&head, blocks).expect("a repaired table is one");
            assert_eq!(repaired.partitions, table.partitions);
        }
    }
}

fn check_table(table: &Table, blocks: u64) {
    for partition in &table.partitions {
        assert!(partition.first <= partition.last && partition.last < blocks);
        assert_eq!(partition.start_bytes() % BLOCK, 0);
        assert!(partition.length_bytes() <= blocks * BLOCK);
        let Some(growth) = table.grow(partition.number, blocks) else { continue };
        assert!(growth.partition.last > partition.last && growth.partition.first == partition.first);
        let [tail, first] = &growth.writes;
        assert_eq!(tail.0 + tail.1.len() as u64, blocks * BLOCK, "the copy ends with the disk");
        let mut head = vec![0; HEAD_BYTES];
        head[first.0 as usize..][..first.1.len()].copy_from_slice(&first.1);
        let grown = Table::parse(&head, blocks).expect("a grown table is one");
        assert!(grown.partitions.contains(&growth.partition));
        assert_eq!(grown.partitions.len(), table.partitions.len());
        assert_eq!(Table::parse_backup(&tail.1, blocks).expect("its copy too").partitions, grown.partitions);
    }
}

/// A NoCloud disk. What is read of it has a limit, however its chains and folders lead.
pub fn boot_nocloud(data: &[u8]) {
    const MOST: usize = 4096;
    let mut total = 0;
    let mut read = |at: u64, length: usize| {
        total += length;
        // At most a root folder of 1 MiB for each of two kinds, and the tables' sectors.
        assert!(total <= 64 << 20, "{total} bytes read");
        let at = usize::try_from(at).ok()?;
        data.get(at..at.checked_add(length)?).map(<[u8]>::to_vec)
    };
    if let nocloud::Disk::UserData(bytes) = nocloud::look(&mut read, MOST) {
        assert!(bytes.len() <= MOST);
        boot_config(&bytes);
    }
}

/// Superblocks of dm-verity and EROFS. The table that is made is one line of plain words.
pub fn boot_verity(data: &[u8]) {
    if let Some(bytes) = verity::erofs_bytes(data) {
        assert_eq!(bytes % 512, 0);
    }
    if let Ok(superblock) = Superblock::parse(data) {
        let at = superblock.data_bytes();
        let table = superblock.table("254:1", "254:2", at, &Digest::from_bytes([7; 32]));
        assert!(table.len() < 1024, "{table}");
        assert_eq!(table.split(' ').count(), 10, "{table}");
        assert!(table.bytes().all(|b| b.is_ascii_graphic() || b == b' '), "{table}");
    }
}

/// Documents: a NoCloud disk's file, the node's configuration, units, settings, the kernel's command line, a request to
/// PID 1.
pub fn boot_config(data: &[u8]) {
    if let Ok(Some(text)) = user_data::config(data) {
        assert!(text.len() < data.len());
        if let Ok(config) = NodeConfig::parse(text) {
            assert!(config.memory.zram <= 80);
        }
    }
    if let Ok(request) = control::parse(data) {
        let written = serde_json::to_vec(&request).expect("a request is plain data");
        assert_eq!(control::parse(&written), Ok(request));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(unit) = Unit::parse(Path::new("/units/x.toml"), text) {
        assert_eq!(unit.name, "x");
        assert!(unit.exec[0].starts_with('/'));
        assert!((1..=600).contains(&unit.stop.within_s) && (1..=600).contains(&unit.ready.within_s));
    }
    if let Ok(sysctls) = sysctl::parse(Path::new("sysctl.toml"), text) {
        assert!(sysctls.iter().all(|sysctl| !sysctl.key.contains("..") && !sysctl.key.contains('/')));
    }
    if let Ok(line) = CommandLine::parse(text) {
        assert_eq!(
            line.root_hash.is_some(),
            text.split_ascii_whitespace().any(|w| w.starts_with("roothash="))
        );
    }
}

/// A DHCP server's answer, after four bytes of the transaction's number. A lease is one that a host can have, and its
/// times are in order.
pub fn boot_dhcp(data: &[u8]) {
    let Some((number, answer)) = data.split_first_chunk::<4>() else { return };
    let hardware = answer.get(28..34).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    let client = Client { hardware, transaction: u32::from_be_bytes(*number), hostname: "x".to_owned() };
    match dhcp::parse(answer, &client) {
        Some(Answer::Offer(lease)) => {
            check_lease(&lease);
            let ask = Ask::Request { address: lease.address, server: lease.server };
            assert_eq!(
                dhcp::parse(&client.message(ask, 0), &client),
                None,
                "a client's message is no answer"
            );
        }
        Some(Answer::Ack(lease)) => check_lease(&lease),
        Some(Answer::Nak) | None => {}
    }
}

fn check_lease(lease: &Lease) {
    assert!(
        !lease.address.is_unspecified() && !lease.address.is_multicast() && !lease.address.is_broadcast()
    );
    assert!((1..=32).contains(&lease.prefix));
    assert!(lease.dns.len() <= 3);
    match (lease.renew_s, lease.rebind_s, lease.ends_s) {
        (None, None, None) => {}
        (Some(renew), Some(rebind), Some(ends)) => {
            assert!(1 <= renew && renew <= rebind && rebind < ends && ends >= 60, "{lease:?}");
        }
        _ => panic!("{lease:?}"),
    }
}

/// A time server's answer.
pub fn boot_sntp(data: &[u8]) {
    const NOW: u64 = 1_704_067_200_000;
    let cookie = data.get(24..32).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
    if let Some(offset) = sntp::offset_ms(data, cookie, NOW, NOW) {
        // An answer is in the era of NTP that began in 2020 or the next one.
        let told = i128::from(NOW) + i128::from(offset);
        assert!((1_577_836_799_000..5_900_000_000_000).contains(&told), "{told}");
    }
    assert_eq!(sntp::offset_ms(data, cookie.wrapping_add(1), NOW, NOW), None);
}
