//! What is in the built files, read from their bytes.

use std::io::Read as _;

use stratos_tests::Workshop;
use stratos_types::KernelChoice;

/// One file of an initramfs.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    mode: u32,
}

/// The entries of a cpio archive (the kernel's initramfs-buffer-format, "newc").
fn entries(archive: &[u8]) -> Vec<Entry> {
    entries_and_end(archive).0
}

/// The same, and where the archive ends.
fn entries_and_end(archive: &[u8]) -> (Vec<Entry>, usize) {
    let (mut entries, mut at) = (Vec::new(), 0);
    loop {
        let head = &archive[at..at + 110];
        assert_eq!(&head[..6], b"070701", "at {at}");
        let field = |number: usize| {
            let digits = &head[6 + 8 * number..14 + 8 * number];
            u32::from_str_radix(std::str::from_utf8(digits).expect("digits"), 16).expect("a number")
        };
        let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
        let name = String::from_utf8(archive[at + 110..at + 110 + name_size - 1].to_vec()).expect("a name");
        at = (at + 110 + name_size).next_multiple_of(4) + size.next_multiple_of(4);
        if name == "TRAILER!!!" {
            return (entries, at);
        }
        entries.push(Entry { name, mode });
    }
}

/// The kernel in a bzImage whose payload is packed with zstd, as Debian's is (Documentation/arch/x86/boot.rst).
fn unpacked(image: &[u8]) -> Vec<u8> {
    let number = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().expect("four bytes")) as usize;
    assert_eq!(&image[0x202..0x206], b"HdrS");
    // `setup_sects` sectors follow the first; `payload_offset` counts from their end.
    let start = (usize::from(image[0x1f1]) + 1) * 512 + number(0x248);
    let payload = &image[start..start + number(0x24c)];
    let mut kernel = Vec::new();
    // Behind the frame is its unpacked size, which is not for zstd.
    let mut decoder = zstd::Decoder::new(payload).expect("a decoder").single_frame();
    decoder.read_to_end(&mut kernel).expect("a frame");
    kernel
}

async fn the_kernels_own_initramfs_is_empty(test: &str, choice: KernelChoice) {
    let Some(workshop) = Workshop::open(test, choice).await else { return };
    let file = |name: &str| std::fs::read(workshop.image().file(name).expect("one")).expect("a file");
    let kernel = match choice {
        KernelChoice::Debian => unpacked(&file("vmlinuz")),
        KernelChoice::Stratos => file("vmlinux"),
    };
    // Magic number and thirteen numbers of eight digits: the code that reads such archives has the magic number too.
    let header = regex::bytes::Regex::new("070701[0-9A-Fa-f]{104}").expect("a pattern");
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(archive) = header.find_at(&kernel, at) {
        let (entries, end) = entries_and_end(&kernel[archive.start()..]);
        found.extend(entries.into_iter().map(|entry| entry.name));
        at = archive.start() + end;
    }
    assert_eq!(found, ["dev", "dev/console", "root"], "what the kernel's build makes of no files");
}

#[tokio::test]
async fn debians_kernel_has_no_files_in_itself() {
    the_kernels_own_initramfs_is_empty("debians_kernel_has_no_files_in_itself", KernelChoice::Debian).await;
}

#[tokio::test]
async fn the_own_kernel_has_no_files_in_itself() {
    the_kernels_own_initramfs_is_empty("the_own_kernel_has_no_files_in_itself", KernelChoice::Stratos).await;
}

async fn the_initramfs_holds_pid_1_and_modules_only(test: &str, kernel: KernelChoice) {
    let Some(workshop) = Workshop::open(test, kernel).await else { return };
    let archive = std::fs::read(workshop.image().file("initramfs.img").expect("one")).expect("a file");
    for Entry { name, mode } in entries(&archive) {
        assert_eq!(mode & 0o6002, 0, "{name}: neither setuid nor writable by everybody");
        let is_folder = mode & 0o170_000 == 0o040_000;
        let is_module = name.strip_prefix("lib/modules/").is_some_and(|n| n.ends_with(".ko") || n == "order");
        assert!(is_folder || is_module || ["init", "dev/console"].contains(&name.as_str()), "{name}");
    }
}

#[tokio::test]
async fn the_initramfs_of_debians_kernel_holds_pid_1_and_modules_only() {
    let test = "the_initramfs_of_debians_kernel_holds_pid_1_and_modules_only";
    the_initramfs_holds_pid_1_and_modules_only(test, KernelChoice::Debian).await;
}

#[tokio::test]
async fn the_initramfs_of_the_own_kernel_holds_pid_1_only() {
    let test = "the_initramfs_of_the_own_kernel_holds_pid_1_only";
    the_initramfs_holds_pid_1_and_modules_only(test, KernelChoice::Stratos).await;
}
