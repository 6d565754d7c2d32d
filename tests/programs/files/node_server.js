// An HTTP server with a worker thread, timers, a watched file and file I/O on libuv's thread pool.
"use strict";
const http = require("node:http");
const fs = require("node:fs");
const { Worker } = require("node:worker_threads");

let ticks = 0;
let hits = 0;
let changes = 0;
setInterval(() => { ticks += 1; }, 50);
fs.writeFileSync("/tmp/watched", "0");
fs.watch("/tmp/watched", () => { changes += 1; });

const worker = new Worker(`
  const { parentPort } = require("node:worker_threads");
  let calls = 0;
  parentPort.on("message", (n) => {
    calls += 1;
    const table = new Array(n + 1).fill(true);
    for (let i = 2; i * i <= n; i++) if (table[i]) for (let j = i * i; j <= n; j += i) table[j] = false;
    let primes = 0;
    for (let i = 2; i <= n; i++) if (table[i]) primes += 1;
    parentPort.postMessage({ primes, calls });
  });
`, { eval: true });

async function answer() {
  hits += 1;
  const before = changes;
  await fs.promises.writeFile("/tmp/watched", String(hits));
  const kept = await fs.promises.readFile("/tmp/watched", "utf8");
  const reply = await new Promise((resolve) => {
    worker.once("message", resolve);
    worker.postMessage(100000);
  });
  await new Promise((resolve) => setTimeout(resolve, 60));
  return { hits, kept, primes: reply.primes, calls: reply.calls, watched: changes > before, ticking: ticks > 0 };
}

const server = http.createServer(async (request, response) => {
  if (request.url === "/ping") return response.end("pong");
  console.log(request.method, request.url);
  response.end(JSON.stringify(await answer()));
});
server.listen(8080, () => console.log("ready"));
process.on("SIGTERM", () => {
  console.log("ending");
  server.close();
  server.closeAllConnections();
  worker.terminate().then(() => process.exit(3));
});
