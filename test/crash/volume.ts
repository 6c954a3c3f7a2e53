/** A small file system of its own, in memory or on an image behind a loop device. Whoever makes one removes it. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { find, type Program } from '../machine.ts'

export type Kind = 'tmpfs' | 'ext4' | 'xfs'

const UNMOUNT_TRIES = 100
const UNMOUNT_PAUSE_MS = 50
const SYS_ADMIN = 1n << 21n

const run = (command: string, ...args: string[]): void => {
  execFileSync(command, args, { stdio: ['ignore', 'ignore', 'pipe'] })
}

const mounted = new Set<Volume>()

/** What a run that is ended in the middle leaves to the machine: nothing. */
function release(): void {
  for (const volume of mounted) volume.remove()
}

function releaseAndGo(signal: NodeJS.Signals): void {
  release()
  // Whoever else listens decides what the signal means.
  if (process.listenerCount(signal) > 0) return
  process.kill(process.pid, signal)
}

export class Volume {
  /** Where it is mounted. */
  readonly dir: string
  readonly #kind: Kind
  readonly size: number
  readonly #image: string

  constructor(kind: Kind, base: string, size: number) {
    this.#kind = kind
    this.size = size
    this.#image = join(base, `${kind}.image`)
    this.dir = join(base, kind)
    mkdirSync(this.dir)
    if (kind !== 'tmpfs') {
      writeFileSync(this.#image, '')
      truncateSync(this.#image, size)
      run(`mkfs.${kind}`, '-q', this.#image)
    }
    this.mount()
  }

  mount(): void {
    if (mounted.size === 0) {
      process.once('exit', release)
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, releaseAndGo)
    }
    if (this.#kind === 'tmpfs') run('mount', '-t', 'tmpfs', '-o', `size=${this.size}`, 'tmpfs', this.dir)
    else run('mount', '-o', 'loop', this.#image, this.dir)
    mounted.add(this)
  }

  /** Ends it as a power cut would. Without -f: the file system's own log is not written first. */
  cut(): void {
    run('xfs_io', '-x', '-c', 'shutdown', this.dir)
  }

  /** A process that was killed, or one that was being started beside this, may hold it a moment longer. */
  async unmount(): Promise<void> {
    await unmount(this.dir)
    this.#unlist()
  }

  /** Whatever state it is in, and whoever still holds a file of it. */
  remove(): void {
    if (mounted.has(this)) run('umount', '-l', this.dir)
    this.#unlist()
    rmSync(this.#image, { force: true })
  }

  /** Bytes that are left to anyone who is not root. */
  get free(): number {
    const { bavail, bsize } = statfsSync(this.dir)
    return bavail * bsize
  }

  #unlist(): void {
    mounted.delete(this)
    if (mounted.size > 0) return
    process.removeListener('exit', release)
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.removeListener(signal, releaseAndGo)
  }
}

/** What this machine lacks to mount a file system of its own, and of these programs. */
export function missing(...programs: readonly Program[]): string | undefined {
  if (process.platform !== 'linux') return 'Linux'
  if (process.getuid?.() !== 0) return 'root'
  const able = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '0'
  if ((BigInt(`0x${able}`) & SYS_ADMIN) === 0n) return 'the right to mount'
  if (!existsSync('/dev/loop-control')) return 'loop devices'
  return programs.find((program) => !find(program))
}

/** Tried again while a child that was just born somewhere still holds a file of it. */
export async function unmount(dir: string): Promise<void> {
  for (let tries = 1; ; tries++)
    try {
      run('umount', dir)
      return
    } catch (error) {
      if (tries === UNMOUNT_TRIES || !String(error).includes('busy')) throw error
      await delay(UNMOUNT_PAUSE_MS)
    }
}
