//! The addresses that this machine has.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The kernel's list, given back when dropped.
struct List(*mut libc::ifaddrs);

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the pointer came from getifaddrs and is given back once.
        unsafe { libc::freeifaddrs(self.0) };
    }
}

/// Every address of every interface, each once, in the kernel's order.
///
/// # Errors
/// When the kernel does not tell.
pub fn own() -> io::Result<Vec<IpAddr>> {
    let mut first = std::ptr::null_mut();
    // SAFETY: the call writes one pointer to where it is told.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let list = List(first);
    let mut addresses = Vec::new();
    let mut next = list.0;
    while !next.is_null() {
        // SAFETY: `next` is an entry of the list, which lives until `list` is dropped.
        let entry = unsafe { &*next };
        if let Some(address) = address(entry)
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
        next = entry.ifa_next;
    }
    Ok(addresses)
}

fn address(entry: &libc::ifaddrs) -> Option<IpAddr> {
    if entry.ifa_addr.is_null() {
        return None;
    }
    // SAFETY: not null, so it points to an address that the list owns; every kind begins with its family.
    match i32::from(unsafe { (*entry.ifa_addr).sa_family }) {
        libc::AF_INET => {
            // SAFETY: the family says which structure this is.
            let address = unsafe { &*entry.ifa_addr.cast::<libc::sockaddr_in>() };
            Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says which structure this is.
            let address = unsafe { &*entry.ifa_addr.cast::<libc::sockaddr_in6>() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_among_them() {
        let addresses = own().unwrap();
        assert!(addresses.contains(&Ipv4Addr::LOCALHOST.into()), "{addresses:?}");
        let once: std::collections::BTreeSet<_> = addresses.iter().collect();
        assert_eq!(once.len(), addresses.len());
    }
}
