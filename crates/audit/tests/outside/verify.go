// An outsider's proof of an audit log, with nothing of Ward: the checkpoint is opened with golang.org/x/mod/sumdb/note,
// and golang.org/x/mod/sumdb/tlog computes the tree from the entries, authenticates every tile against the signed root
// and checks a proof of inclusion for every entry.
//
//	verify <directory> <verifier key>
package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8
const width = 1 << height

func main() {
	tree, err := verify(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("%d %x\n", tree.N, tree.Hash[:])
}

func verify(directory, key string) (tree tlog.Tree, err error) {
	if tree, err = checkpoint(directory, key); err != nil {
		return tree, err
	}
	entries, err := readEntries(directory, tree.N)
	if err != nil {
		return tree, err
	}
	// The root, from the entries alone.
	var stored []tlog.Hash
	inMemory := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			hashes[i] = stored[index]
		}
		return hashes, nil
	})
	for n, entry := range entries {
		hashes, err := tlog.StoredHashes(int64(n), entry, inMemory)
		if err != nil {
			return tree, err
		}
		stored = append(stored, hashes...)
	}
	root := tlog.Hash(sha256.Sum256(nil)) // Of nothing; tlog would say zeros.
	if tree.N > 0 {
		if root, err = tlog.TreeHash(tree.N, inMemory); err != nil {
			return tree, err
		}
	}
	if root != tree.Hash {
		return tree, fmt.Errorf("the entries hash to another root than was signed")
	}
	if tree.N == 0 {
		return tree, nil
	}
	// Every tile, against the signed root, and every entry in it.
	inTiles := tlog.TileHashReader(tree, tiles(directory))
	indexes := make([]int64, tree.N)
	for n := range indexes {
		indexes[n] = tlog.StoredHashIndex(0, int64(n))
	}
	hashes, err := inTiles.ReadHashes(indexes)
	if err != nil {
		return tree, err
	}
	for n, hash := range hashes {
		if hash != tlog.RecordHash(entries[n]) {
			return tree, fmt.Errorf("entry %d is not the one in its tile", n)
		}
		proof, err := tlog.ProveRecord(tree.N, int64(n), inMemory)
		if err != nil {
			return tree, err
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, int64(n), hash); err != nil {
			return tree, err
		}
	}
	return tree, nil
}

func checkpoint(directory, key string) (tree tlog.Tree, err error) {
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return tree, err
	}
	message, err := os.ReadFile(filepath.Join(directory, "checkpoint"))
	if err != nil {
		return tree, err
	}
	opened, err := note.Open(message, note.VerifierList(verifier))
	if err != nil {
		return tree, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return tree, fmt.Errorf("not a checkpoint of %s", verifier.Name())
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return tree, err
	}
	hash, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || copy(tree.Hash[:], hash) != tlog.HashSize || len(hash) != tlog.HashSize {
		return tree, fmt.Errorf("not a root hash")
	}
	return tree, nil
}

func readEntries(directory string, size int64) (entries [][]byte, err error) {
	for start := int64(0); start < size; start += width {
		count := size - start
		if count > width {
			count = width
		}
		bundle, err := os.ReadFile(filepath.Join(directory, path("entries", start/width, int(count))))
		if err != nil {
			return nil, err
		}
		for ; count > 0; count-- {
			if len(bundle) < 2 {
				return nil, fmt.Errorf("a bundle is too short")
			}
			length := int(binary.BigEndian.Uint16(bundle))
			if bundle = bundle[2:]; len(bundle) < length {
				return nil, fmt.Errorf("a bundle is too short")
			}
			entries = append(entries, bundle[:length])
			bundle = bundle[length:]
		}
		if len(bundle) != 0 {
			return nil, fmt.Errorf("a bundle is too long")
		}
	}
	return entries, nil
}

// path names a file as https://c2sp.org/tlog-tiles does, without the height that Go's Tile.Path puts in front.
func path(level string, n int64, w int) string {
	name := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		name = fmt.Sprintf("x%03d/%s", n%1000, name)
	}
	if w < width {
		name += fmt.Sprintf(".p/%d", w)
	}
	return "tile/" + level + "/" + name
}

type tiles string

func (directory tiles) Height() int { return height }

func (directory tiles) ReadTiles(wanted []tlog.Tile) (data [][]byte, err error) {
	for _, tile := range wanted {
		bytes, err := os.ReadFile(filepath.Join(string(directory), path(strconv.Itoa(tile.L), tile.N, tile.W)))
		if err != nil {
			return nil, err
		}
		data = append(data, bytes)
	}
	return data, nil
}

func (directory tiles) SaveTiles([]tlog.Tile, [][]byte) {}
