import { relative } from 'node:path'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** Files that take long, and the seconds that each took in a whole run, when others ran beside it. */
const SECONDS: Readonly<Record<string, number>> = {
  'test/client/storm.test.ts': 127,
  'test/tools/bench.test.ts': 124,
  'test/tools/backup.test.ts': 93,
  'test/log/jetstream.test.ts': 91,
  'test/log/model.test.ts': 91,
  'test/console/console.test.ts': 85,
  'test/server/sign-in.test.ts': 51,
  'test/crash/cluster.test.ts': 48,
  'test/crash/history.test.ts': 47,
  'test/tools/demo.test.ts': 47,
  'test/crash/errno.test.ts': 45,
  'test/crash/kill.test.ts': 44,
  'test/client/tabs.test.ts': 42,
  'test/tools/pack.test.ts': 42,
  'test/crash/points.test.ts': 39,
  'test/client/renewal.test.ts': 35,
  'test/crash/keyed.test.ts': 35,
  'test/log/level.test.ts': 35,
  'test/crash/power.test.ts': 31,
  'test/client/seam.test.ts': 30,
  'test/server/smuggling.test.ts': 28,
  'test/log/state.test.ts': 28,
  'test/tools/archive.test.ts': 28,
  'test/log/nats-away.test.ts': 27,
  'test/tools/deploy.test.ts': 27,
  'test/log/nats-faults.test.ts': 26,
  'test/server/matrix.test.ts': 25,
  'test/tools/watch.test.ts': 25,
  'test/log/gateways.test.ts': 24,
  'test/crash/replay.test.ts': 23,
  'test/client/leaving.test.ts': 22,
  'test/crash/flips.test.ts': 22,
  'test/client/append.test.ts': 20,
}

/** Those that take longest begin first, so that none is still running alone at the end; all others as they come. */
export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const seconds = ({ moduleId }: TestSpecification) => SECONDS[relative(this.ctx.config.root, moduleId)] ?? 0
    return files.toSorted((a, b) => seconds(b) - seconds(a))
  }
}
