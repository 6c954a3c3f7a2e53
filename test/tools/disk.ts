/** Real directory trees that change at random, and the plain truth about them, for the tests of `watch`. */
import {
  appendFileSync,
  type Dirent,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { join, relative } from 'node:path'

/** A small generator, so that a seed repeats a run (mulberry32). */
export function randomFrom(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % below
  }
}

/** What stands on disk, path → text of its node, read in the simplest way there is. */
export function onDisk(root: string): Map<string, string> {
  const found = new Map<string, string>()
  const walk = (dir: string) => {
    for (const name of readdirSync(join(root, dir))) {
      const path = dir === '' ? name : `${dir}/${name}`
      const stats = lstatSync(join(root, path))
      if (stats.isDirectory()) {
        found.set(path, nodeText({ kind: 'dir' }))
        walk(path)
      } else if (stats.isFile()) found.set(path, nodeText({ kind: 'file', size: stats.size, mtime: stats.mtimeMs }))
      else found.set(path, nodeText({ kind: stats.isSymbolicLink() ? 'link' : 'other', mtime: stats.mtimeMs }))
    }
  }
  walk('')
  return found
}

export const nodeText = (node: { kind: string; size?: number; mtime?: number }): string =>
  `${node.kind} ${node.size ?? '-'} ${node.mtime ?? '-'}`

/** A directory of `files` files in nested directories. */
export function plant(root: string, files: number, random: (below: number) => number): void {
  const dirs = ['']
  for (let i = 0; i < files; i++) {
    if (random(20) === 0) {
      const dir = join(dirs[random(dirs.length)]!, `dir-${i}`)
      mkdirSync(join(root, dir))
      dirs.push(dir)
    }
    writeFileSync(join(root, dirs[random(dirs.length)]!, `file-${i}`), 'x'.repeat(random(50)))
  }
}

/** One random change: make, write, rename, replace, link, delete, or a burst. */
export function disturb(root: string, random: (below: number) => number, burst: number): void {
  const all = readdirSync(root, { recursive: true, withFileTypes: true })
  const pathOf = (entry: Dirent) => relative(root, join(entry.parentPath, entry.name))
  const dirs = ['', ...all.filter((entry) => entry.isDirectory()).map(pathOf)]
  const files = all.filter((entry) => entry.isFile()).map(pathOf)
  const pick = (list: readonly string[]) => list[random(list.length)] ?? ''
  const fresh = () => join(root, pick(dirs), `${pick(['new', 'Ünï', 'a b', 'tmp', '-'])}-${random(1_000_000)}`)
  switch (random(12)) {
    case 0:
      mkdirSync(fresh())
      break
    case 1:
    case 2:
      writeFileSync(fresh(), 'y'.repeat(random(100)))
      break
    case 3:
    case 4:
      if (files.length > 0) appendFileSync(join(root, pick(files)), 'more')
      break
    case 5:
      if (files.length > 0) renameSync(join(root, pick(files)), fresh())
      break
    case 6: {
      const dir = pick(dirs)
      const to = fresh()
      if (dir !== '' && !to.startsWith(join(root, dir))) renameSync(join(root, dir), to)
      break
    }
    case 7:
      if (files.length > 0) unlinkSync(join(root, pick(files)))
      break
    case 8: {
      const dir = pick(dirs)
      // Gone, and at once there again as another one, with something in it.
      if (dir !== '' && all.length > 100) {
        rmSync(join(root, dir), { recursive: true })
        const then = random(3)
        if (then === 0) writeFileSync(join(root, dir), 'a file now')
        if (then === 1) {
          mkdirSync(join(root, dir))
          writeFileSync(join(root, dir, 'again'), 'z')
        }
      }
      break
    }
    case 9:
      symlinkSync(pick(['nowhere', '..', '/', 'new-1']), fresh())
      break
    case 10: {
      const deep = join(fresh(), ...Array.from({ length: random(12) }, (_, i) => `d${i}`))
      mkdirSync(deep, { recursive: true })
      writeFileSync(join(deep, 'leaf'), 'leaf')
      break
    }
    case 11:
      if (random(10) === 0) {
        const dir = fresh()
        mkdirSync(dir)
        for (let i = 0; i < burst; i++) writeFileSync(join(dir, `b-${i}`), `${i}`)
        for (let i = 0; i < burst; i += 3) renameSync(join(dir, `b-${i}`), join(dir, `c-${i}`))
        for (let i = 1; i < burst; i += 3) unlinkSync(join(dir, `b-${i}`))
      }
      break
  }
}
