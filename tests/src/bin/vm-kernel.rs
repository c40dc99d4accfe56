//! Fetches the kernel that the `vm` tests boot and prints its folder: for the user whose cache it is, before they run as
//! root.

fn main() -> anyhow::Result<()> {
    println!("{}", stratos_tests::vm::kernel()?.display());
    Ok(())
}
