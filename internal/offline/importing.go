package offline

import (
	"os"

	"github.com/uplinkd/uplinkd/internal/importer"
)

// Import reads the files of another system, and OpenWrt's network file unless networkFile is "", and translates them. The error is
// importer.ErrUnusable when nothing in them leads out.
func Import(system string, names []string, networkFile string) (importer.Result, error) {
	files := make([]importer.File, len(names))
	for i, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return importer.Result{}, err
		}
		files[i] = importer.File{Name: name, Data: data}
	}
	if networkFile == "" {
		return importer.Convert(system, files, nil)
	}
	data, err := os.ReadFile(networkFile)
	if err != nil {
		return importer.Result{}, err
	}
	return importer.Convert(system, files, &importer.File{Name: networkFile, Data: data})
}
