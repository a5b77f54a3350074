// Verifies a log of Strongroom with golang.org/x/mod/sumdb, the code that checks Go's own
// checksum database.
//
//	tlogcheck LOG VKEY_FILE [-witness VKEY]... OLDER_CHECKPOINT_FILE...
//
// Every witness must have cosigned the checkpoint. It verifies the signature of the checkpoint, recomputes the root from the tiles, proves the
// inclusion of every leaf's entry from the tiles, and the consistency of each older checkpoint.
// Of a pruned log it verifies the hashes of the leaves whose records are gone.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8 // C2SP tlog-tiles: 256 hashes to a tile

// files reads tiles from a directory laid out as C2SP tlog-tiles says.
type files struct{ directory string }

func (f files) Height() int                     { return height }
func (f files) SaveTiles([]tlog.Tile, [][]byte) {}
func (f files) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, 0, len(tiles))
	for _, tile := range tiles {
		// sumdb writes tile/8/L/N, C2SP tile/L/N.
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		content, err := os.ReadFile(filepath.Join(f.directory, path))
		if errors.Is(err, os.ErrNotExist) && tile.W < 1<<height {
			full := tile
			full.W = 1 << height
			path = strings.Replace(full.Path(), "tile/8/", "tile/", 1)
			if content, err = os.ReadFile(filepath.Join(f.directory, path)); err == nil {
				content = content[:tile.W*tlog.HashSize]
			}
		}
		if err != nil {
			return nil, err
		}
		data = append(data, content)
	}
	return data, nil
}

func (f files) entries(n, width int64) ([][]byte, error) {
	tile := tlog.Tile{H: height, L: 0, N: n, W: int(width)}
	path := strings.Replace(tile.Path(), "tile/8/0/", "tile/entries/", 1)
	content, err := os.ReadFile(filepath.Join(f.directory, path))
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(content) > 0 {
		if len(content) < 2 {
			return nil, errors.New(path + ": truncated")
		}
		size := int(binary.BigEndian.Uint16(content))
		if len(content) < 2+size {
			return nil, errors.New(path + ": truncated")
		}
		entries = append(entries, content[2:2+size])
		content = content[2+size:]
	}
	if int64(len(entries)) != width {
		return nil, fmt.Errorf("%s: %d entries, not %d", path, len(entries), width)
	}
	return entries, nil
}

// minimumIndex returns the first leaf whose record was not pruned.
func (f files) minimumIndex() (int64, error) {
	content, err := os.ReadFile(filepath.Join(f.directory, "pruned"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var mark struct {
		MinimumIndex int64 `json:"minimum_index"`
	}
	if err := json.Unmarshal(content, &mark); err != nil {
		return 0, err
	}
	return mark.MinimumIndex, nil
}

// open verifies a checkpoint; sumdb's own parser wants another first line.
func open(path string, verifier note.Verifier, witnesses []note.Verifier) (tlog.Tree, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return tlog.Tree{}, err
	}
	signers := append([]note.Verifier{verifier}, witnesses...)
	opened, err := note.Open(content, note.VerifierList(signers...))
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("%s: %w", path, err)
	}
	for _, signer := range signers {
		if !signedBy(opened, signer) {
			return tlog.Tree{}, fmt.Errorf("%s: not signed by %s", path, signer.Name())
		}
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, errors.New(path + ": not a checkpoint of this log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tlog.Tree{}, errors.New(path + ": not a root")
	}
	return tlog.Tree{N: size, Hash: tlog.Hash(root)}, nil
}

func signedBy(opened *note.Note, signer note.Verifier) bool {
	for _, signature := range opened.Sigs {
		if signature.Name == signer.Name() && signature.Hash == signer.KeyHash() {
			return true
		}
	}
	return false
}

func check(directory, keyFile string, arguments []string) error {
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	verifier, err := note.NewVerifier(strings.TrimSpace(string(key)))
	if err != nil {
		return err
	}
	var older []string
	var witnesses []note.Verifier
	for i := 0; i < len(arguments); i++ {
		if arguments[i] != "-witness" || i+1 == len(arguments) {
			older = append(older, arguments[i])
			continue
		}
		i++
		witness, err := newCosigner(arguments[i])
		if err != nil {
			return err
		}
		witnesses = append(witnesses, witness)
	}
	tree, err := open(filepath.Join(directory, "checkpoint"), verifier, witnesses)
	if err != nil {
		return err
	}
	log := files{directory}
	// Authenticates every tile that it reads against the root of the tree.
	hashes := tlog.TileHashReader(tree, log)
	root, err := tlog.TreeHash(tree.N, hashes)
	if err != nil {
		return err
	}
	if root != tree.Hash {
		return errors.New("the tiles lead to another root")
	}
	first, err := log.minimumIndex()
	if err != nil {
		return err
	}
	for index := int64(0); index < first; index++ {
		// The record is gone, its hash is not. sumdb does not compare every tile that it reads
		// with the one above, so the hash is proven like a record's.
		leaf, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
		if err != nil {
			return fmt.Errorf("leaf %d: %w", index, err)
		}
		proof, err := tlog.ProveRecord(tree.N, index, hashes)
		if err != nil {
			return fmt.Errorf("leaf %d: %w", index, err)
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, leaf[0]); err != nil {
			return fmt.Errorf("leaf %d: %w", index, err)
		}
	}
	for start := first; start < tree.N; start += 1 << height {
		entries, err := log.entries(start>>height, min(tree.N-start, 1<<height))
		if err != nil {
			return err
		}
		for i, entry := range entries {
			index := start + int64(i)
			proof, err := tlog.ProveRecord(tree.N, index, hashes)
			if err != nil {
				return fmt.Errorf("leaf %d: %w", index, err)
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
				return fmt.Errorf("leaf %d: %w", index, err)
			}
		}
	}
	for _, path := range older {
		old, err := open(path, verifier, nil)
		if err != nil {
			return err
		}
		if old.N == 0 {
			continue
		}
		proof, err := tlog.ProveTree(tree.N, old.N, hashes)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	fmt.Printf("%d leaves, %d older checkpoints\n", tree.N, len(older))
	if first > 0 {
		fmt.Printf("%d of the leaves without their records\n", first)
	}
	return nil
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: tlogcheck LOG VKEY_FILE [-witness VKEY]... OLDER_CHECKPOINT_FILE...")
		os.Exit(2)
	}
	if err := check(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
