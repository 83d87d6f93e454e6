import assert from 'node:assert/strict';
import { DrError, type ErrorCode } from '../../src/model/errors.js';
import type { StoredImage } from '../../src/model/image-set.js';
import type { Identity, Store } from '../../src/stores/store.js';
import { failAt, Fault } from '../support/faulty-store.js';

/** Where kinds of stores differ, and may. */
export interface Traits {
  /** What a new image holds: zeros, or whatever lay on the disks. */
  readonly origin: 'fresh' | 'stale';
  /** Whether `adopt` takes what somebody else made; if not, only what was handed over by hand. */
  readonly adoptsForeign: boolean;
}

/** A store under test, and hands to do beside it what an admin might. */
export interface StoreUnderTest {
  readonly traits: Traits;
  /** A new instance over the same place, as another process would have it. */
  open(): Store;
  /** Writes into an image, durably. */
  write(image: StoredImage, offset: number, bytes: Uint8Array): Promise<void>;
  read(image: StoredImage, offset: number, length: number): Promise<Buffer>;
  /** Makes something under an image's name that dr-engine did not make, and says how to tell that it is unharmed. */
  plant(name: string): Promise<{ readonly unharmed: () => Promise<boolean> }>;
  /** Gives what was planted to dr-engine, where that takes a hand. */
  handOver?(name: string): Promise<void>;
  /** Removes an image by hand. */
  vanish(image: StoredImage): Promise<void>;
  /** Everything that is there by name, ours or not. */
  names(): Promise<string[]>;
  remove(): Promise<void>;
}

const MIB = 1024 * 1024;
const SET_A = '20260101T000000Z-00000000000000aa';
const SET_B = '20260102T000000Z-00000000000000bb';
const SET_C = '20260103T000000Z-00000000000000cc';
const root = (set: string): Identity => ({ set, disk: 'root' });

/** Without what changes by itself: udev may be looking into the image just now. */
function quiet({ open: _, ...image }: StoredImage): StoredImage {
  return image;
}

/** The suite that every kind of store passes. */
export function describeStore(name: string, make: () => Promise<StoreUnderTest>): void {
  describe(`store: ${name}`, () => {
    let place: StoreUnderTest;
    let store: Store;
    beforeEach(async () => {
      place = await make();
      store = place.open();
    });
    afterEach(async () => { await place.remove(); });

    const one = async (image: string): Promise<StoredImage> => {
      const found = (await place.open().list()).find((each) => each.name === image);
      assert.ok(found, `${image} is listed`);
      return quiet(found);
    };
    const names = async (): Promise<string[]> => (await place.open().list()).map((image) => image.name).sort();

    it('is usable, and says how much space there is', async () => {
      await store.check();
      const space = await store.space();
      assert.ok(space.freeBytes > 0 && space.freeBytes <= space.sizeBytes);
      assert.deepEqual(await store.list(), []);
    });

    describe('allocate', () => {
      it('makes an image of the exact size that is bound to its set, and says what it holds', async () => {
        const made = quiet(await store.allocate('Web01_root_incomplete', 3 * MIB + 512, root(SET_A)));
        assert.deepEqual(await one('Web01_root_incomplete'), made);
        assert.equal(made.bytes, 3 * MIB + 512);
        assert.equal(made.base, 'Web01_root');
        assert.equal(made.slot, 'incomplete');
        assert.deepEqual(made.identity, root(SET_A));
        assert.equal(made.origin, place.traits.origin);
        assert.equal(made.modified, undefined);
        const read = await place.read(made, 2 * MIB, MIB + 512);
        assert.ok(place.traits.origin === 'stale' || read.every((byte) => byte === 0));
      });

      it('never takes a name that exists, ours or not', async () => {
        const ours = quiet(await store.allocate('Web01_root_1', MIB, root(SET_A)));
        await rejects(store.allocate('Web01_root_1', MIB, root(SET_B)), 'exists');
        assert.deepEqual(await one('Web01_root_1'), ours);
        const planted = await place.plant('Web01_root_2');
        await rejects(store.allocate('Web01_root_2', MIB, root(SET_B)), 'exists');
        assert.ok(await planted.unharmed());
      });

      it('leaves nothing behind when there is no space', async () => {
        await store.check(); // makes what the store itself needs
        const before = await place.names();
        await rejects(store.allocate('Web01_root_1', 2 ** 62, root(SET_A)), 'no-space');
        assert.deepEqual(await place.names(), before);
        assert.deepEqual(await names(), []);
      });
    });

    describe('list', () => {
      it('passes over names that are no image\'s, and shows what is not ours without identity', async () => {
        await store.allocate('Web01_root_1', MIB, root(SET_A));
        await place.plant('notes');
        await place.plant('Web01_root_2');
        assert.deepEqual(await names(), ['Web01_root_1', 'Web01_root_2']);
        assert.equal((await one('Web01_root_2')).identity, undefined);
      });

      it('sees that an image was written', async () => {
        const before = await store.allocate('Web01_root_1', MIB, root(SET_A));
        assert.deepEqual((await one('Web01_root_1')).touched, before.touched, 'looking changes nothing');
        await place.write(before, 0, Buffer.from('x'));
        assert.notDeepEqual((await one('Web01_root_1')).touched, before.touched);
      });

      it('does not take names, identities and marks for writing', async () => {
        const before = await store.allocate('Web01_root_incomplete', MIB, root(SET_A));
        await store.giveName(before, 'Web01_root_1');
        await store.takeName(await one('Web01_root_1'), 'Web01_root_incomplete');
        await store.bind(await one('Web01_root_1'), root(SET_B));
        await store.forgetOrigin(await one('Web01_root_1'));
        await store.markModified(await one('Web01_root_1'), 'why');
        await store.markModified(await one('Web01_root_1'), undefined);
        assert.deepEqual((await store.settle(await one('Web01_root_1'))).touched, before.touched);
      });
    });

    describe('renaming', () => {
      it('keeps content and identity', async () => {
        const image = await store.allocate('Web01_root_incomplete', MIB, root(SET_A));
        await place.write(image, 4096, Buffer.from('content'));
        await store.giveName(image, 'Web01_root_1');
        await store.takeName(await one('Web01_root_1'), 'Web01_root_incomplete');
        assert.deepEqual(await names(), ['Web01_root_1']);
        const renamed = await one('Web01_root_1');
        assert.deepEqual(renamed.identity, root(SET_A));
        assert.equal((await place.read(renamed, 4096, 7)).toString(), 'content');
      });

      it('can be begun again after a death at any point', async () => {
        const image = await store.allocate('Web01_root_incomplete', MIB, root(SET_A));
        for (const fault of [failAt(store, 'giveName', 1), failAt(store, 'giveName', 1, 'after')]) {
          await assert.rejects(fault.giveName(image, 'Web01_root_1'), Fault);
          await place.open().giveName(image, 'Web01_root_1');
        }
        for (const fault of [failAt(store, 'takeName', 1, 'after'), failAt(store, 'takeName', 1)]) {
          const given = await one('Web01_root_1');
          await assert.rejects(fault.takeName(given, 'Web01_root_incomplete'), Fault);
          await place.open().takeName(given, 'Web01_root_incomplete');
        }
        assert.deepEqual(await names(), ['Web01_root_1']);
      });

      it('never lands on a name that exists, ours or not', async () => {
        const image = await store.allocate('Web01_root_incomplete', MIB, root(SET_B));
        const ours = quiet(await store.allocate('Web01_root_1', MIB, root(SET_A)));
        const planted = await place.plant('Web01_root_2');
        await rejects(store.giveName(image, 'Web01_root_1'), 'exists');
        await rejects(store.giveName(image, 'Web01_root_2'), 'exists');
        assert.deepEqual(await one('Web01_root_1'), ours);
        assert.ok(await planted.unharmed());
      });

      it('refuses an image that is not ours, gone, or replaced by another', async () => {
        await place.plant('Web01_root_2');
        await rejects(store.giveName(await one('Web01_root_2'), 'Web01_root_3'), 'not-ours');
        const image = await store.allocate('Web01_root_1', MIB, root(SET_A));
        await place.vanish(image);
        await rejects(store.giveName(image, 'Web01_root_3'), 'state-changed');
        const planted = await place.plant('Web01_root_1');
        await rejects(store.giveName(image, 'Web01_root_3'), 'state-changed', 'not-ours');
        assert.ok(await planted.unharmed());
        assert.deepEqual(await names(), ['Web01_root_1', 'Web01_root_2']);
      });

      it('never takes an image\'s only name, nor another\'s', async () => {
        const image = quiet(await store.allocate('Web01_root_1', MIB, root(SET_A)));
        const other = quiet(await store.allocate('Web01_root_2', MIB, root(SET_B)));
        await rejects(store.takeName(image, 'Web01_root_1'), 'state-changed');
        await rejects(store.takeName(image, 'Web01_root_2'), 'state-changed', 'not-ours');
        await store.takeName(image, 'Web01_root_9'); // gone already
        assert.deepEqual(await one('Web01_root_1'), image);
        assert.deepEqual(await one('Web01_root_2'), other);
      });
    });

    describe('bind', () => {
      it('remembers what the image held until something is written', async () => {
        const image = await store.allocate('Web01_root_incomplete', MIB, root(SET_A));
        await store.forgetOrigin(image);
        assert.equal((await one('Web01_root_incomplete')).origin, undefined);
        await store.bind(await one('Web01_root_incomplete'), root(SET_B));
        assert.deepEqual((await one('Web01_root_incomplete')).origin, root(SET_A));
        assert.deepEqual((await one('Web01_root_incomplete')).identity, root(SET_B));
        await store.bind(await one('Web01_root_incomplete'), root(SET_C)); // a run died before it wrote anything
        assert.deepEqual((await one('Web01_root_incomplete')).origin, root(SET_A));
        await store.forgetOrigin(await one('Web01_root_incomplete'));
        await store.forgetOrigin(await one('Web01_root_incomplete'));
        assert.equal((await one('Web01_root_incomplete')).origin, undefined);
        assert.deepEqual((await one('Web01_root_incomplete')).identity, root(SET_C));
      });

      it('is the same when done again', async () => {
        const image = await store.allocate('Web01_root_incomplete', MIB, root(SET_A));
        await store.bind(image, root(SET_B));
        await store.bind(image, root(SET_B));
        assert.equal((await one('Web01_root_incomplete')).origin, place.traits.origin);
      });

      it('refuses what is not ours, and what is marked', async () => {
        const planted = await place.plant('Web01_root_2');
        await rejects(store.bind(await one('Web01_root_2'), root(SET_B)), 'not-ours');
        assert.ok(await planted.unharmed());
        assert.equal((await one('Web01_root_2')).identity, undefined);
        const image = await store.allocate('Web01_root_1', MIB, root(SET_A));
        await store.markModified(image, 'booted');
        await rejects(store.bind(image, root(SET_B)), 'image-modified');
        assert.deepEqual((await one('Web01_root_1')).identity, root(SET_A));
      });

      it('adopts what is not ours when told so', async () => {
        const planted = await place.plant('Web01_root_2');
        if (!place.traits.adoptsForeign) {
          await rejects(store.adopt(await one('Web01_root_2'), root(SET_A)), 'not-ours');
          await place.handOver?.('Web01_root_2');
        }
        await store.adopt(await one('Web01_root_2'), root(SET_A));
        const adopted = await one('Web01_root_2');
        assert.deepEqual(adopted.identity, root(SET_A));
        assert.equal(adopted.origin, undefined);
        assert.ok(await planted.unharmed(), 'its content stays');
      });
    });

    it('keeps the mark of what was booted until it is cleared', async () => {
      const image = await store.allocate('Web01_root_1', MIB, root(SET_A));
      await store.markModified(image, 'booted by hand, „so"');
      assert.equal((await one('Web01_root_1')).modified, 'booted by hand, „so"');
      await store.giveName(image, 'Web01_root_2');
      const renamed = await one('Web01_root_2');
      assert.equal(renamed.modified, 'booted by hand, „so"', 'it follows a rename');
      await store.markModified(renamed, undefined);
      await store.markModified(renamed, undefined);
      assert.equal((await one('Web01_root_2')).modified, undefined);
      await place.plant('Web01_root_3');
      await rejects(store.markModified(await one('Web01_root_3'), 'x'), 'not-ours');
    });

    it('resizes an image of ours only', async () => {
      const image = await store.allocate('Web01_root_1', 2 * MIB, root(SET_A));
      await place.write(image, 0, Buffer.from('head'));
      const grown = await store.resize(image, 3 * MIB);
      assert.equal(grown.bytes, 3 * MIB);
      const shrunk = await store.resize(grown, MIB);
      assert.equal(shrunk.bytes, MIB);
      assert.equal((await place.read(shrunk, 0, 4)).toString(), 'head');
      await rejects(store.resize(shrunk, 2 ** 62), 'no-space');
      assert.equal((await one('Web01_root_1')).bytes, MIB);
      const planted = await place.plant('Web01_root_2');
      await rejects(store.resize(await one('Web01_root_2'), MIB), 'not-ours');
      assert.ok(await planted.unharmed());
    });

    describe('remove', () => {
      it('removes the image that is meant, once', async () => {
        const image = await store.allocate('Web01_root_1', MIB, root(SET_A));
        await store.remove(image, root(SET_A));
        await store.remove(image, root(SET_A));
        assert.deepEqual(await names(), []);
      });

      it('refuses what is bound to another set, not ours, marked or replaced', async () => {
        const image = await store.allocate('Web01_root_1', MIB, root(SET_A));
        await rejects(store.remove(image, root(SET_B)), 'state-changed');
        await store.markModified(image, 'booted');
        await rejects(store.remove(image, root(SET_A)), 'image-modified');
        await place.plant('Web01_root_2');
        await rejects(store.remove(await one('Web01_root_2'), root(SET_A)), 'not-ours');
        await place.vanish(image);
        const planted = await place.plant('Web01_root_1');
        await rejects(store.remove(image, root(SET_A)), 'state-changed', 'not-ours');
        assert.ok(await planted.unharmed());
        assert.deepEqual(await names(), ['Web01_root_1', 'Web01_root_2']);
      });
    });

    it('tidies nothing that somebody has', async () => {
      const image = quiet(await store.allocate('Web01_root_1', MIB, root(SET_A)));
      const planted = await place.plant('Web01_root_2');
      await store.tidy();
      assert.deepEqual(await one('Web01_root_1'), image);
      assert.ok(await planted.unharmed());
    });
  });
}

/** Rejects with a DrError of one of these codes, whose message says what was not touched or what is wrong. */
export async function rejects(promise: Promise<unknown>, ...codes: readonly ErrorCode[]): Promise<void> {
  await assert.rejects(promise, (error: unknown) => {
    assert.ok(error instanceof DrError, `a DrError, not ${String(error)}`);
    assert.ok(codes.includes(error.code), `${error.code}: ${error.message}`);
    return true;
  });
}
