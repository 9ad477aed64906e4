//! The server's promises when clients, networks and devices misbehave.

mod harness;

use harness::backends::Broken;
use harness::{TestServer, request};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_device_is_an_error_and_the_server_says_so() {
    let server = TestServer::with(&[], vec![Box::new(Broken::default())]).await;
    let client = server.client().await;
    let error = client.sample(request(1, 10, 1)).await.unwrap_err();
    assert!(matches!(error.code(), Some(Code::Internal)), "{error}");
}
