import assert from 'node:assert/strict';
import fc from 'fast-check';
import { placeImages, usableBytes, type Places } from '../../src/cache/place.js';

const GIB = 2 ** 30;

/** `a:10 b:2+3p`: servers with disks in GiB, the first named `d0`; of one with `p` only what differs is expected. */
function servers(text: string): Parameters<typeof placeImages>[0] {
  return text.split(' ').filter((word) => word !== '').map((word) => {
    const [server = '', sizes = ''] = word.split(':');
    return { server, disks: sizes.split('+').map((size, at) => ({ disk: `d${String(at)}`, bytes: parseFloat(size) * GIB, partial: size.endsWith('p') })) };
  });
}

/** `b:20 c:10v`: drives `/dev/sdb`… with GiB of size and nearly as much free; `v` for FAT. */
function drives(text: string): Parameters<typeof placeImages>[1] {
  return text.split(' ').filter((word) => word !== '').map((word) => {
    const [letter = '', size = ''] = word.split(':');
    const bytes = parseFloat(size) * GIB;
    return { device: `/dev/sd${letter}`, sizeBytes: bytes, freeBytes: bytes, fsType: size.endsWith('v') ? 'vfat' : 'ext4' };
  });
}

/** `all a.d0=b a.d1=c` or `one …`, in the order of names. */
function shown({ kind, placements }: Places): string {
  const places = Object.entries(placements).flatMap(([server, placed]) => Object.entries(placed).map(([disk, device]) => `${server}.${disk}=${device.replace('/dev/sd', '')}`));
  return [kind === 'all-at-once' ? 'all' : 'one', ...places.sort()].join(' ');
}

describe('placing images on cache drives', () => {
  const table: readonly (readonly [what: string, servers: string, drives: string, wanted: string])[] = [
    ['one server on the only drive', 'a:5', 'b:10', 'all a.d0=b'],
    ['nothing to place', '', 'b:10', 'all'],
    ['the largest drive first', 'a:5', 'b:10 c:20', 'all a.d0=c'],
    ['equal drives in alphabetical order', 'a:5', 'c:10 b:10', 'all a.d0=b'],
    ['disks of one server on different drives', 'a:8+8', 'b:10 c:10', 'all a.d0=b a.d1=c'],
    ['the largest server first', 'a:3 z:9', 'b:10 c:5', 'all a.d0=c z.d0=b'],
    ['equal servers in alphabetical order', 'z:8 a:8', 'b:20 c:9', 'all a.d0=b z.d0=b'],
    ['one at a time when they do not fit together', 'a:6 b:6', 'b:10', 'one a.d0=b b.d0=b'],
    ['none for a server that does not fit alone', 'a:6 b:11', 'b:10', 'one a.d0=b'],
    ['none when one of its disks does not fit', 'a:1+11', 'b:10', 'one'],
    ['one at a time without drives', 'a:1', '', 'one'],
    ['no file of 4 GiB on FAT', 'a:4', 'b:20v c:10', 'all a.d0=c'],
    ['a smaller file on FAT', 'a:3', 'b:20v c:10', 'all a.d0=b'],
    ['something kept free of a drive', 'a:10', 'b:10', 'one'],
    ['a file of no size', 'a:0', 'b:1', 'all a.d0=b'],
    ['whole disks where they fit, also if less is expected', 'a:5p b:4p', 'b:6 c:5', 'all a.d0=b b.d0=c'],
    ['what is expected of them where they do not', 'a:16p b:16p', 'b:10', 'all a.d0=b b.d0=b'],
    ['what is expected of one, and all of another', 'a:16p b:4', 'b:10', 'all a.d0=b b.d0=b'],
    ['one at a time when even that does not fit together', 'a:32p b:32p', 'b:10', 'one a.d0=b b.d0=b'],
    ['no less on FAT, which has no holes', 'a:3p b:3p', 'b:5v', 'one a.d0=b b.d0=b'],
  ];
  for (const [what, wanted, there, places] of table) {
    it(`gives ${what}`, () => { assert.equal(shown(placeImages(servers(wanted), drives(there))), places); });
  }

  it('never promises a drive more than it has, places all disks or none, and does not depend on the order of its input', () => {
    const bytes = fc.integer({ min: 0, max: 64 * GIB });
    fc.assert(fc.property(
      fc.uniqueArray(fc.record({ server: fc.string(), disks: fc.uniqueArray(fc.record({ disk: fc.string(), bytes }), { minLength: 1, maxLength: 4, selector: ({ disk }) => disk }) }), { maxLength: 6, selector: ({ server }) => server }),
      fc.uniqueArray(fc.record({ device: fc.string(), sizeBytes: bytes, freeBytes: bytes, fsType: fc.constantFrom('ext4', 'vfat') }), { maxLength: 4, selector: ({ device }) => device }),
      (wanted, there) => {
        const places = placeImages(wanted, there);
        assert.deepEqual(placeImages([...wanted].reverse(), [...there].reverse()), places);
        const placed = new Map(Object.entries(places.placements));
        if (places.kind === 'all-at-once') assert.equal(placed.size, wanted.length);
        const rounds = places.kind === 'all-at-once' ? [[...placed]] : [...placed].map((one) => [one]);
        for (const round of rounds) {
          const used = new Map<string, number>();
          for (const [server, places] of round) {
            const disks = wanted.find((each) => each.server === server)?.disks ?? [];
            assert.deepEqual(Object.keys(places).sort(), disks.map(({ disk }) => disk).sort());
            for (const { disk, bytes } of disks) {
              const device = new Map(Object.entries(places)).get(disk) ?? '';
              used.set(device, (used.get(device) ?? 0) + bytes);
              assert.ok(bytes < 2 ** 32 || there.find((drive) => drive.device === device)?.fsType !== 'vfat');
            }
          }
          for (const [device, bytes] of used) {
            const drive = there.find((each) => each.device === device);
            assert.ok(drive !== undefined && bytes <= usableBytes(drive) && usableBytes(drive) <= drive.freeBytes);
          }
        }
      },
    ), { numRuns: 300 });
  });
});
