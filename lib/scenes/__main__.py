"""python -m lib.scenes FOLDER --count 24 --seed 7 --size 480 360"""

from lib.scenes.warehouse import main

main()
