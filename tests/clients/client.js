// Reads requests as JSON, sends each by a call of its own and all over one stream, writes the answers.
// node client.js HOST:PORT < requests.json > answers.json
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const path = require("path");
const { promisify } = require("util");

const definition = loader.loadSync("logitd/v1/sampler.proto", {
  includeDirs: [path.join(__dirname, "..", "..", "proto")],
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
});
const { SamplerService } = grpc.loadPackageDefinition(definition).logitd.v1;

async function main() {
  const requests = JSON.parse(require("fs").readFileSync(0, "utf8"));
  for (const request of requests) request.logits = Buffer.from(request.logits, "base64");
  const client = new SamplerService(process.argv[2], grpc.credentials.createInsecure());
  const call = (name) => promisify(client[name].bind(client));

  const info = await call("GetInfo")({});
  const unary = [];
  for (const request of requests) unary.push((await call("Sample")(request)).rows);
  const stream = await overStream(client, requests);
  const wrong = { ...requests[0], params: [{ top_p: 2 }] };
  const refused = await call("Sample")(wrong).then(
    () => ({ code: 0, details: "" }),
    ({ code, details }) => ({ code, details }),
  );
  client.close();
  process.stdout.write(JSON.stringify({ info, unary, stream, refused }));
}

function overStream(client, requests) {
  return new Promise((resolve, reject) => {
    const answers = new Array(requests.length).fill(null);
    const call = client.SampleStream();
    call.on("error", reject);
    call.on("data", ({ id, response }) => (answers[id] = response.rows));
    call.on("end", () => resolve(answers));
    requests.forEach((request, id) => call.write({ id, request }));
    call.end();
  });
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
