/**
 * nsfwd from Node 18 or newer: one file, to be copied; it needs no package.
 *
 *     import { Nsfwd } from "./nsfwd.mjs";
 *     const nsfwd = new Nsfwd();
 *     const reply = await nsfwd.scanBytes(await readFile(upload));
 *     // Everything else is held: what has no score, an alarm, and a tier in between such as review.
 *     if (nsfwd.mayPublish(reply)) publish();
 *     else holdForReview(reply.error?.code ?? reply.verdict);
 *
 * A reply is always an object with `status`: "ok" (then also verdict, alarm, scores, ...), "skipped", "error" or "refused"
 * (then error.code and error.message). A daemon that cannot be reached or does not answer in time is the status "error"
 * with the code "unreachable" or "silent". Nothing is thrown. Codes: protocol.md.
 */
import { readFile } from "node:fs/promises";
import net from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

/** Seconds that the daemon's own reply to a deadline may take to come. */
const GRACE = 2;

const failed = (code, message) => ({ status: "error", error: { code, message } });

export class Nsfwd {
  /**
   * @param {object} options
   * @param {string} options.address tcp:HOST:PORT or unix:/path
   * @param {number} options.deadline seconds for one picture, waiting for a busy daemon included
   * @param {string[]} options.publish verdicts to publish; if empty only "safe", the lowest tier, and then never an alarm
   */
  constructor({ address = "tcp:127.0.0.1:1235", deadline = 10, publish = [] } = {}) {
    this.address = address;
    this.deadline = deadline;
    this.publish = publish;
  }

  /** Scan a file of the machine that the daemon runs on; path (a string, or a Buffer if it is no UTF-8) is absolute. */
  scan(path) {
    return this.#ask({ path_bytes: Buffer.from(path).toString("base64") });
  }

  /** Scan an encoded picture (JPEG, PNG, ...) that the daemon has no file of. */
  scanBytes(data) {
    return this.#ask({ bytes: data.length }, data);
  }

  /** Whether nobody has to look at the picture first. */
  mayPublish(reply) {
    if (reply.status !== "ok") return false;
    return this.publish.length
      ? this.publish.includes(reply.verdict)
      : reply.verdict === "safe" && reply.alarm === false;
  }

  async #ask(request, body) {
    const until = Date.now() / 1000 + this.deadline;
    for (;;) {
      const left = Math.max(0.1, until - Date.now() / 1000);
      const reply = await this.#once({ id: 1, deadline: left, ...request }, body, left + GRACE);
      const pause = reply.retry_after;
      if (reply.status !== "refused" || pause === undefined || Date.now() / 1000 + pause >= until) return reply;
      await sleep(pause * 1000);
    }
  }

  #once(request, body, seconds) {
    return new Promise((resolve) => {
      const socket = net.connect(this.#place());
      let partial = "";
      const timer = setTimeout(() => end(failed("silent", "the daemon did not answer in time")), seconds * 1000);
      const end = (reply) => {
        clearTimeout(timer);
        socket.destroy();
        resolve(reply);
      };
      socket.setEncoding("utf8");
      socket.on("error", (error) => end(failed("unreachable", `no daemon at ${this.address}: ${error.message}`)));
      socket.on("close", () => end(failed("unreachable", "the daemon closed the connection before it replied")));
      socket.on("connect", () => {
        socket.write(JSON.stringify(request) + "\n");
        if (body) socket.write(body);
      });
      socket.on("data", (text) => {
        const lines = (partial + text).split("\n");
        partial = lines.pop();
        for (const line of lines) {
          if (line.startsWith("{")) return end(checked(line, request));
        }
      });
    });
  }

  #place() {
    if (this.address.startsWith("unix:")) return { path: this.address.slice(5) };
    const [, host, port] = this.address.match(/^(?:tcp:)?(.*):(\d+)$/);
    return { host: host.replace(/^\[(.*)\]$/, "$1"), port: Number(port) };
  }
}

/** A directory is answered with many lines; here one picture is asked for. */
function checked(line, request) {
  let reply;
  try {
    reply = JSON.parse(line);
  } catch {
    return failed("unreachable", "what answered is no nsfwd");
  }
  const path = reply.path_bytes ?? Buffer.from(reply.path ?? "").toString("base64");
  const other = request.path_bytes && reply.path && path !== request.path_bytes;
  return reply.status === "done" || other ? failed("is_directory", "a directory, not a picture") : reply;
}

// Example: node nsfwd.mjs ADDRESS DEADLINE path|bytes FILE [TIER...] says what an upload form should do with the picture:
// publish (exit code 0), hold for its verdict (1), hold because it has no score (2). TIER: a verdict to publish.
if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  if (process.argv.length < 6) {
    console.error("usage: node nsfwd.mjs ADDRESS DEADLINE path|bytes FILE [TIER...]");
    process.exit(64);
  }
  const [address, deadline, way, file, ...publish] = process.argv.slice(2);
  const client = new Nsfwd({ address, deadline: Number(deadline), publish });
  const reply = way === "bytes" ? await client.scanBytes(await readFile(file).catch(() => "")) : await client.scan(file);
  const publishes = client.mayPublish(reply);
  console.log(publishes ? "publish" : "hold", reply.error?.code ?? reply.verdict);
  process.exitCode = publishes ? 0 : reply.status === "ok" ? 1 : 2;
}
