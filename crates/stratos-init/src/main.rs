//! `stratos-init`, the first process of a StratOS node.

fn main() {
    stratos_init::entry::run();
}
