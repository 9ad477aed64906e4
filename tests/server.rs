//! The server's promises to a client that plays by the rules, at the protocol.

mod harness;

use harness::{TestServer, expected, request};

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_answered_as_the_reference_answers_them() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    for (rows, vocab_size) in [(1, 1), (3, 257), (17, 1000)] {
        let request = request(rows, vocab_size, rows as u64);
        let response = client.sample(request.clone()).await.unwrap();
        assert_eq!(response.rows, expected(&request));
        assert_eq!(response.device, "reference");
        assert_eq!(response.arithmetic_version, logitd::arithmetic::VERSION);
    }
    server.stop().await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_and_a_unix_socket_are_served_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("logitd.sock");
    let unix = format!("--listen=unix:{}", path.display());
    let server = TestServer::start(&["--listen=127.0.0.1:0", &unix]).await;
    assert_eq!(server.targets.len(), 2);
    let request = request(2, 300, 1);
    for target in &server.targets {
        let client = logitd::client::Client::connect(target).await.unwrap();
        assert_eq!(
            client.sample(request.clone()).await.unwrap().rows,
            expected(&request),
            "{target}"
        );
    }
    server.stop().await.unwrap().unwrap();
    assert!(!path.exists(), "the socket's file is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_every_request_by_its_id() {
    let server = TestServer::start(&["--stream-requests-max=4"]).await;
    let (mut sender, mut receiver) = server.client().await.stream().await.unwrap().split();
    let requests: Vec<_> = (0..50).map(|i| request(1 + i % 5, 100 + i, i as u64)).collect();
    let sent = requests.clone();
    let sending = tokio::spawn(async move {
        for (i, request) in sent.into_iter().enumerate() {
            assert_eq!(sender.send(request).await.unwrap(), i as u64);
        }
    });
    let mut answered = vec![false; requests.len()];
    while let Some(answer) = receiver.receive().await {
        let (id, response) = answer.unwrap();
        let id = id as usize;
        assert!(!std::mem::replace(&mut answered[id], true), "one answer a request");
        assert_eq!(response.unwrap().rows, expected(&requests[id]), "request {id}");
    }
    sending.await.unwrap();
    assert!(answered.into_iter().all(|answered| answered));
}
