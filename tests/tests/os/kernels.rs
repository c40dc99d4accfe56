//! Both kernels, in a small machine.

use stratos_tests::{Package, Workshop};
use stratos_types::KernelChoice;

use crate::{greets, native, status};

async fn boots_and_serves_in_256_mib(test: &str, kernel: KernelChoice) {
    let Some(workshop) = Workshop::open(test, kernel).await else { return };
    let guest = workshop.boot(workshop.machine().memory_mib(256)).await;
    let status = status(&guest).await;
    assert!(status.managed && status.memory_total_kb < 256 << 10, "{status:?}");
    assert_eq!(status.kernel, workshop.image().manifest().kernel_version);
    guest.deploy(&native()).await;
    guest.deploy(&Package::folder("examples/hello-python")).await;
    greets(&guest).await;
    let answer = guest.invoke_ok("hello-python", r#"{"name":"machine"}"#).await;
    assert_eq!(answer["message"], "Hello, machine!", "{answer}");
    assert!(guest.power_off().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_kernel_boots_and_serves_in_256_mib() {
    boots_and_serves_in_256_mib("debians_kernel_boots_and_serves_in_256_mib", KernelChoice::Debian).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_kernel_boots_and_serves_in_256_mib() {
    boots_and_serves_in_256_mib("the_own_kernel_boots_and_serves_in_256_mib", KernelChoice::Stratos).await;
}
