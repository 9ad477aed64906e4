//! Batches in chunks.

use super::*;

/// A batch of `rows` rows, and the same in chunks of so many rows each, with their first rows.
fn chunks(rows: usize, each: usize, salt: u64) -> (SampleRequest, Vec<(u64, SampleRequest)>) {
    let whole = request(rows, 300, salt);
    let chunk = |start: usize| {
        let end = (start + each).min(rows);
        let request = SampleRequest {
            logits: whole.logits.slice(start * 600..end * 600),
            params: whole.params[start..end].to_vec(),
            ..whole.clone()
        };
        (start as u64, request)
    };
    let chunks = (0..rows).step_by(each).map(chunk).collect();
    (whole, chunks)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answers_leave_before_the_last_row_has_come() {
    let server = TestServer::start(&[]).await;
    let mut stream = server.client().await.stream().await.unwrap();
    let (whole, mut chunks) = chunks(20, 3, 1);
    let expected = expected(&whole);
    let (last_row, last) = chunks.pop().unwrap();
    let mut first_rows = Vec::new();
    for (first_row, chunk) in chunks {
        first_rows.push(first_row);
        stream.send_chunk(first_row, chunk).await.unwrap();
    }
    // The last two rows are still here, and the others are answered.
    for _ in 0..first_rows.len() {
        let (id, response) = stream.receive().await.unwrap().unwrap();
        let (response, at) = (response.unwrap(), first_rows[id as usize] as usize);
        assert_eq!(response.rows, expected[at..at + 3]);
        assert_eq!(response.plane(), Plane::Chunked);
    }
    stream.send_chunk(last_row, last).await.unwrap();
    let (_, response) = stream.receive().await.unwrap().unwrap();
    assert_eq!(response.unwrap().rows, expected[18..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_in_chunks_is_the_batch_to_the_bit() {
    let server =
        TestServer::with(&["--message-bytes-max=64KiB", "--stream-requests-max=3"], vec![cpu()])
            .await;
    let client = server.client().await;
    let info = client.info().await.unwrap();
    assert_eq!(info.chunk_bytes, 64 << 10);
    for (rows, vocab_size) in [(1, 1000), (700, 1000), (64, 16_000), (3000, 5)] {
        let whole = request(rows, vocab_size, rows as u64);
        let response = client.sample_chunked(whole.clone(), &info).await.unwrap();
        assert_eq!(response.rows, expected(&whole), "{rows} rows of {vocab_size}");
        assert_eq!(response.plane(), Plane::Chunked);
        assert!(response.timings.is_some());
        assert_eq!(client.sample_all(whole.clone()).await.unwrap(), response.rows);
    }
    server.idle().await;
}

/// Raw messages, so that what the server echoes is seen as it is.
async fn answers(raw: &Raw, messages: &[SampleStreamRequest]) -> Vec<SampleStreamResponse> {
    let body: Vec<u8> = messages.iter().flat_map(framed).collect();
    let reply = raw.call("SampleStream", &[], body).await;
    reply.assert_code(Code::Ok, &[]);
    let mut answers: Vec<_> =
        reply.messages.iter().map(|m| SampleStreamResponse::decode(m.clone()).unwrap()).collect();
    answers.sort_by_key(|answer| answer.first_row);
    answers
}

fn code(answer: &SampleStreamResponse) -> Code {
    match answer.result.as_ref().unwrap() {
        Outcome::Response(_) => Code::Ok,
        Outcome::Error(error) => Code::from(error.code),
    }
}

/// Chunks share an id here: their first rows tell them apart, also that of one which was never kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_wrong_is_refused_by_itself() {
    let server = TestServer::start(&["--message-bytes-max=64KiB"]).await;
    let raw = Raw::connect(server.address()).await;
    let (whole, chunks) = chunks(12, 3, 2);
    let mut messages: Vec<_> = chunks
        .into_iter()
        .map(|(first_row, request)| SampleStreamRequest {
            id: 8,
            request: Some(request),
            first_row: Some(first_row),
        })
        .collect();
    messages[1].request.as_mut().unwrap().params[2].top_p = Some(7.0);
    messages[2].request = Some(request(1, 60_000, 1));
    messages.swap(0, 3);
    let answers = answers(&raw, &messages).await;
    let found: Vec<_> = answers.iter().map(|a| (a.id, a.first_row.unwrap(), code(a))).collect();
    let wanted = [
        (8, 0, Code::Ok),
        (8, 3, Code::InvalidArgument),
        (8, 6, Code::OutOfRange),
        (8, 9, Code::Ok),
    ];
    assert_eq!(found, wanted);
    let Some(Outcome::Response(last)) = &answers[3].result else { panic!("{:?}", answers[3]) };
    assert_eq!(last.rows, expected(&whole)[9..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_says_which_rows_failed_and_lets_go_of_the_rest() {
    let (backend, log) = Paced::boxed(Duration::from_millis(2));
    let flags = ["--request-rows-max=2", "--batch-rows-max=2", "--stream-requests-max=4"];
    let server = TestServer::with(&flags, vec![backend]).await;
    let client = server.client().await;
    let mut whole = request(400, 300, 3);
    whole.params[7].min_p = 2.0;
    let error = client.sample_all(whole).await.unwrap_err();
    let Error::Chunk { first_row: 6, rows: 2, .. } = &error else { panic!("{error:?}") };
    assert_eq!(error.code(), Some(Code::InvalidArgument));
    assert_eq!(error.violations()[0].0, "params[1].min_p");
    assert!(error.to_string().contains("rows 6 to 7: "), "{error}");
    server.idle().await;
    assert!(log.read().rows < 100, "{} rows were sampled for nobody", log.read().rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_chunks_than_the_server_has_room_for_come_again() {
    let (backend, gate) = Gated::boxed();
    let flags = ["--queue-rows-max=8", "--request-rows-max=2", "--retry-after-max=5ms"];
    let server = TestServer::with(&flags, vec![backend]).await;
    let whole = request(60, 300, 4);
    let refused = server.client().await.sample_all(whole.clone()).await.unwrap_err();
    let patient = Client::builder(server.target()).retries_max(10_000).connect().await.unwrap();
    assert_eq!(refused.code(), Some(Code::ResourceExhausted), "{refused}");
    assert!(refused.retry_after().is_some() && refused.to_string().contains("queue_rows_max"));
    let sampled = tokio::spawn({
        let whole = whole.clone();
        async move { patient.sample_all(whole).await }
    });
    // Time enough to be refused over and over.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!sampled.is_finished());
    gate.open();
    assert_eq!(sampled.await.unwrap().unwrap(), expected(&whole));
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_for_a_batch_is_for_all_of_its_chunks() {
    let (backend, _) = Paced::boxed(Duration::from_millis(20));
    let server = TestServer::with(&["--request-rows-max=1"], vec![backend]).await;
    let client = Client::builder(server.target())
        .timeout(Duration::from_millis(200))
        .connect()
        .await
        .unwrap();
    let begun = Instant::now();
    let error = client.sample_all(request(400, 10, 5)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::DeadlineExceeded), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    server.idle().await;
}

/// The client says nothing more, neither a message nor an end: the deadline of the call ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_at_its_deadline() {
    let server = TestServer::start(&[]).await;
    let raw = Raw::connect(server.address()).await;
    let (pieces, answer) = raw.open("SampleStream", &[("grpc-timeout", "300m")]);
    let (whole, mut chunks) = chunks(6, 3, 6);
    let (first_row, request) = chunks.remove(0);
    let first = SampleStreamRequest { id: 0, request: Some(request), first_row: Some(first_row) };
    pieces.send(framed(&first)).await.unwrap();
    let reply = raw::reply(answer.await.unwrap()).await;
    reply.assert_code(Code::DeadlineExceeded, &["the deadline of the stream"]);
    let answer = SampleStreamResponse::decode(reply.messages[0].clone()).unwrap();
    let Some(Outcome::Response(response)) = &answer.result else { panic!("{answer:?}") };
    assert_eq!(response.rows, expected(&whole)[..3]);
    drop(pieces);
}

/// A chunk that stops half way holds its room for a bounded time; those before it are answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stalls_in_a_chunk_has_the_answers_to_those_before() {
    let server = TestServer::start(&["--receive-timeout=200ms"]).await;
    let raw = Raw::connect(server.address()).await;
    let (pieces, answer) = raw.open("SampleStream", &[]);
    let mut answers = answer.await.unwrap();
    let (whole, chunks) = chunks(6, 3, 7);
    for (n, (first_row, request)) in chunks.into_iter().enumerate() {
        let message =
            SampleStreamRequest { id: 0, request: Some(request), first_row: Some(first_row) };
        let bytes = framed(&message);
        pieces.send(if n == 0 { bytes } else { bytes.slice(..bytes.len() / 2) }).await.unwrap();
    }
    let frame = answers.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    let answer = SampleStreamResponse::decode(frame.slice(5..)).unwrap();
    let Some(Outcome::Response(response)) = &answer.result else { panic!("{answer:?}") };
    assert_eq!(response.rows, expected(&whole)[..3], "while the second is on its way");
    raw::reply(answers).await.assert_code(Code::DeadlineExceeded, &["--receive-timeout"]);
    server.idle().await;
}

/// A client that sends chunks and reads no answer is stopped, and then ended.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_whose_answers_nobody_reads_are_bounded() {
    let (backend, log) = Paced::boxed(Duration::ZERO);
    let flags = ["--stream-requests-max=4", "--stream-stall-timeout=300ms"];
    let server = TestServer::with(&flags, vec![backend]).await;
    let raw = Raw::with_window(server.address(), 200).await;
    let (pieces, answer) = raw.open("SampleStream", &[]);
    let response = answer.await.unwrap();
    let (_, chunks) = chunks(300, 3, 8);
    // More than the windows hold: it waits for a server that does not read either.
    let sender = tokio::spawn(async move {
        for id in 1.. {
            for (first_row, request) in chunks.clone() {
                let (request, first_row) = (Some(request), Some(first_row));
                if pieces
                    .send(framed(&SampleStreamRequest { id, request, first_row }))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    });
    let ended = tokio::time::timeout(Duration::from_secs(60), sender).await;
    ended.expect("a server that reads on and on").unwrap();
    server.idle().await;
    assert!(log.read().rows > 0);
    assert!(log.read().rows <= 3 * 12, "{} rows of 300 were sampled", log.read().rows);
    assert!(response.into_body().collect().await.is_err(), "what nobody reads is cut off");
}

/// Half a message, and another that announces more than any may have: the first row is not known, and
/// the stream says so by its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_no_message_ends_the_stream_after_those_before() {
    let server = TestServer::start(&[]).await;
    let raw = Raw::connect(server.address()).await;
    let (whole, mut chunks) = chunks(6, 3, 9);
    let (first_row, request) = chunks.remove(0);
    let good = SampleStreamRequest { id: 0, request: Some(request), first_row: Some(first_row) };
    let body = [framed(&good), announced(3, &[0xff; 3])].concat();
    let reply = raw.call("SampleStream", &[], body).await;
    reply.assert_code(Code::InvalidArgument, &["malformed"]);
    let answer = SampleStreamResponse::decode(reply.messages[0].clone()).unwrap();
    let Some(Outcome::Response(response)) = &answer.result else { panic!("{answer:?}") };
    assert_eq!((answer.first_row, &response.rows[..]), (Some(0), &expected(&whole)[..3]));
}
