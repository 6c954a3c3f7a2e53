/** Where the figures were taken: they mean nothing without it. */
import { readFileSync, statfsSync } from 'node:fs'
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os'

/** File systems by the number that statfs gives, those on which such benches run. */
const FILE_SYSTEMS: Readonly<Record<number, string>> = {
  61267: 'ext4',
  1481003842: 'xfs',
  2435016766: 'btrfs',
  2035054128: 'overlayfs',
  16914836: 'tmpfs',
  801189825: 'zfs',
}

export interface Machine {
  readonly cpu: string
  readonly cores: number
  readonly memoryGiB: number
  readonly kernel: string
  readonly node: string
  readonly fileSystem: string
  /** Processes that wanted a core in the last minute, at the start. Near 0 on a quiet machine. */
  readonly load: number
}

export function describeMachine(dir: string): Machine {
  const type = statfsSync(dir).type
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    node: process.version,
    fileSystem: FILE_SYSTEMS[type] ?? `type 0x${type.toString(16)}`,
    load: loadavg()[0]!,
  }
}

/** CPU time since boot in ticks, of all cores; undefined where there is no /proc. */
export interface CpuTicks {
  readonly all: number
  /** Taken by other guests of the same host. */
  readonly stolen: number
}

export function cpuTicks(): CpuTicks | undefined {
  if (process.platform !== 'linux') return undefined
  const fields = readFileSync('/proc/stat', 'utf8').split('\n')[0]!.trim().split(/\s+/).slice(1, 9).map(Number)
  return { all: fields.reduce((sum, n) => sum + n, 0), stolen: fields[7]! }
}

/** In percent, between two moments. */
export function stolenShare(before: CpuTicks | undefined, after: CpuTicks | undefined): number | undefined {
  return before && after ? (100 * (after.stolen - before.stolen)) / Math.max(after.all - before.all, 1) : undefined
}
