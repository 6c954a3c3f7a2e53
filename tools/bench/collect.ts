/**
 * Loaded before a server whose memory is measured (`node --expose-gc --import collect.js …`): on SIGWINCH (a signal
 * that no server uses) it collects garbage and says so. Two servers are then compared by what they hold and not by
 * when V8 last cleaned up.
 */
const SETTLE_MS = 200

process.on('SIGWINCH', () => {
  globalThis.gc!()
  setTimeout(() => {
    globalThis.gc!()
    process.stderr.write('{"collected":true}\n')
  }, SETTLE_MS).unref()
})
